// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"errors"
)

// capability is QMPCapability of the schema.
type capability string

func (capability) Values() []string { return []string{"oob"} }

// negotiate is the command qmp_capabilities.
func negotiate(_ context.Context, r *Request) (any, error) {
	var args struct {
		Enable []capability `json:"enable,omitempty"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	s := r.Session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.negotiated {
		return nil, &Error{CommandNotFound, "Capabilities negotiation is already complete, command ignored"}
	}
	if len(args.Enable) > 0 && s.server.NoOOB {
		return nil, Errorf("Capability %s not available", args.Enable[0])
	}
	s.negotiated, s.oob = true, len(args.Enable) > 0
	return nil, nil
}

// asError is err as clients are told it.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf("%s", err)
}
