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

// queryStatus gives a guest that a migration has stopped the status that QEMU would give it.
func (p *Proxy) queryStatus(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.forward(ctx, r)
	if err != nil {
		return nil, err
	}
	var s migration.StatusInfo
	raw, _ := answer.(json.RawMessage)
	if json.Unmarshal(raw, &s) != nil {
		return answer, nil
	}
	switch state := p.pause.State(); {
	case s.Running:
	case switching(state):
		return migration.StatusInfo{Status: "finish-migrate"}, nil
	case state == qemu.Left && s.Status == "paused":
		return migration.StatusInfo{Status: "postmigrate"}, nil
	}
	return answer, nil
}

// switching reports whether a migration by the proxy has the guest stopped, or is about to stop it.
func switching(s qemu.PauseState) bool {
	return s == qemu.Stopping || s == qemu.Held || s == qemu.Foreign || s == qemu.Resuming
}

// notFinalized is QEMU's error for cont during a switchover (qmp_cont).
const notFinalized = "Migration is not finalized yet"

func (p *Proxy) cont(ctx context.Context, r *qmp.Request) (any, error) {
	if switching(p.pause.State()) {
		return nil, qmp.Errorf(notFinalized)
	}
	return p.forward(ctx, r)
}

// stop forwards the command, and has a guest that a migration had stopped stay stopped if the migration fails.
func (p *Proxy) stop(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.forward(ctx, r)
	if err == nil {
		p.pause.Disown()
	}
	return answer, err
}

// human forwards a line for the human monitor, and treats cont, stop and migrate_set_parameter in it as the commands of
// QMP.
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
