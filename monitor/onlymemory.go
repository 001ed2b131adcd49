// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/guestmem"
)

// guest is a Monitor's own guest as a migration sees it.
type guest struct{ *Monitor }

func (g guest) Open(context.Context) (*View, error) { return g.memory.view(guestmem.Read) }

func (g guest) Current(_ context.Context, v *View) (bool, error) { return g.memory.same(v), nil }

func (g guest) Running(context.Context) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state.name == "running", nil
}

// Stop keeps in mind whether the guest ran, which is what is saved.
func (g guest) Stop(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.before = g.state.name
	g.setRunning(false, "finish-migrate")
	return nil
}

func (g guest) State(context.Context) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return deviceSections(g.state.before)
}

// Still has nothing to find: nothing writes into this memory while a migration reads it.
func (g guest) Still(context.Context) error { return nil }

func (g guest) Done(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.name, g.state.before = "postmigrate", ""
	return nil
}

func (g guest) Resume(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state.before != "" {
		g.setRunning(g.state.before == "running", g.state.before)
		g.state.before = ""
	}
	return nil
}
