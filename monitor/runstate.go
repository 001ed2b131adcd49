// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// runState is the guest's run state, with QEMU's names (RunState). A guest that is only memory has nothing to run: the
// state is what clients have set, and it is saved and loaded.
type runState struct {
	name      string // running, paused, inmigrate, finish-migrate, postmigrate
	before    string // the state before finish-migrate, which a failed migration restores
	autostart bool   // run after an incoming migration
}

func (m *Monitor) queryStatus(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return migration.StatusInfo{Status: m.state.name, Running: m.state.name == "running"}, nil
}

func (m *Monitor) stop(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.state.name {
	case "inmigrate":
		m.state.autostart = false
	case "running":
		m.setRunning(false, "paused")
	}
	return nil, nil
}

func (m *Monitor) cont(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.state.name {
	case "inmigrate":
		m.state.autostart = true
	case "finish-migrate":
		return nil, qmp.Errorf("Migration is not finalized yet")
	case "running":
	default:
		m.setRunning(true, "running")
	}
	return nil, nil
}

// setRunning changes the state and emits the event; the caller holds m.mu.
func (m *Monitor) setRunning(run bool, name string) {
	was := m.state.name == "running"
	m.state.name = name
	switch {
	case run && !was:
		m.emit("RESUME", nil)
	case !run && was:
		m.emit("STOP", nil)
	}
}
