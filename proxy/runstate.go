// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"

	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/qmp"
)

// queryStatus tells a guest that stands still because of a migration as QEMU would.
func (p *Proxy) queryStatus(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.forward(ctx, r)
	if err != nil {
		return nil, err
	}
	var s monitor.Status
	raw, _ := answer.(json.RawMessage)
	if json.Unmarshal(raw, &s) != nil {
		return answer, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.Running:
		p.moved = false // somebody at another monitor said cont
	case p.was != "":
		return monitor.Status{Status: "finish-migrate"}, nil
	case p.moved && s.Status == "paused":
		return monitor.Status{Status: "postmigrate"}, nil
	}
	return answer, nil
}

func (p *Proxy) cont(ctx context.Context, r *qmp.Request) (any, error) {
	p.mu.Lock()
	busy := p.was != ""
	p.mu.Unlock()
	if busy {
		return nil, qmp.Errorf("Migration is not finalized yet")
	}
	answer, err := p.forward(ctx, r)
	if err == nil {
		p.mu.Lock()
		p.moved = false
		p.mu.Unlock()
	}
	return answer, err
}

// stop makes sure that a guest that we have stopped stays so if the migration fails.
func (p *Proxy) stop(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.forward(ctx, r)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	ours := p.was == "running"
	if ours {
		p.was = "paused"
	}
	p.mu.Unlock()
	if ours {
		// Nor is it to go on if we die. A guardian that is gone will not have it do so.
		_ = p.order(false)
	}
	return answer, nil
}
