// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
)

// queryStatus tells a guest that stands still because of a migration as QEMU would.
func (p *Proxy) queryStatus(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.forward(ctx, r)
	if err != nil {
		return nil, err
	}
	var s migration.Status
	raw, _ := answer.(json.RawMessage)
	if json.Unmarshal(raw, &s) != nil {
		return answer, nil
	}
	switch state := p.pause.State(); {
	case s.Running:
	case switching(state):
		return migration.Status{Status: "finish-migrate"}, nil
	case state == qemu.Left && s.Status == "paused":
		return migration.Status{Status: "postmigrate"}, nil
	}
	return answer, nil
}

// switching says that a migration of ours has the guest stand still, or will in a moment.
func switching(s qemu.PauseState) bool {
	return s == qemu.Stopping || s == qemu.Held || s == qemu.Foreign || s == qemu.Resuming
}

// notFinalized is what QEMU says to cont while it migrates the guest (qmp_cont).
const notFinalized = "Migration is not finalized yet"

func (p *Proxy) cont(ctx context.Context, r *qmp.Request) (any, error) {
	if switching(p.pause.State()) {
		return nil, qmp.Errorf(notFinalized)
	}
	return p.forward(ctx, r)
}

// stop makes sure that a guest that we have stopped stays so if the migration fails.
func (p *Proxy) stop(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.forward(ctx, r)
	if err == nil {
		p.pause.Disown()
	}
	return answer, err
}

// human looks for the same commands on a line of the human monitor.
func (p *Proxy) human(ctx context.Context, r *qmp.Request) (any, error) {
	var args struct {
		Line string `json:"command-line"`
	}
	_ = json.Unmarshal(r.Arguments(), &args)
	words := append(strings.Fields(args.Line), "")
	if (words[0] == "cont" || words[0] == "c") && switching(p.pause.State()) {
		return "Error: " + notFinalized + "\r\n", nil
	}
	answer, err := p.forward(ctx, r)
	if err == nil && (words[0] == "stop" || words[0] == "s") {
		p.pause.Disown()
	}
	if err == nil && words[0] == "migrate_set_parameter" {
		err = p.applyParameters(ctx)
	}
	return answer, err
}
