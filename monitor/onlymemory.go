// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/migration"
)

// guest is the monitor's guest for a migration (migration.Guest).
type guest struct{ m *Monitor }

func (g guest) Open(context.Context) (*migration.View, error) { return g.m.memory.view(guestmem.Read) }

func (g guest) Current(_ context.Context, v *migration.View) (bool, error) {
	return g.m.memory.same(v), nil
}

func (g guest) Running(context.Context) (bool, error) {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	return g.m.state.name == "running", nil
}

// Stop remembers the run state, which is saved.
func (g guest) Stop(context.Context) error {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.state.before = g.m.state.name
	g.m.setRunning(false, "finish-migrate")
	return nil
}

func (g guest) State(context.Context) ([]byte, error) {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	return deviceSections(g.m.state.before)
}

// Still always succeeds: nothing writes into this memory while a migration reads it.
func (g guest) Still(context.Context) error { return nil }

func (g guest) Done(context.Context) error {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.state.name, g.m.state.before = "postmigrate", ""
	return nil
}

func (g guest) Resume(context.Context) error {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.m.state.before != "" {
		g.m.setRunning(g.m.state.before == "running", g.m.state.before)
		g.m.state.before = ""
	}
	return nil
}
