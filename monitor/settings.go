// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// settings are what migrate-set-capabilities and migrate-set-parameters have set.
type settings struct {
	caps   migration.Capabilities
	params migration.Parameters
}

func defaultSettings() settings {
	return settings{caps: migration.Capabilities{}, params: migration.DefaultParameters()}
}

// current returns the settings as a migration uses them.
func (m *Monitor) current() migration.Settings {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings.caps.Settings().WithParameters(m.settings.params)
}

func (m *Monitor) queryCapabilities(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings.caps.List(), nil
}

func (m *Monitor) setCapabilities(_ context.Context, r *qmp.Request) (any, error) {
	var args struct {
		List []migration.CapabilityStatus `json:"capabilities"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	if m.migrating() {
		return nil, qmp.Errorf("There's a migration process in progress")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	caps := m.settings.caps.With(args.List)
	if err := caps.Check(); err != nil {
		return nil, err
	}
	// QEMU has these; they concern something that this guest does not have.
	for _, name := range []string{"postcopy-ram", "postcopy-preempt", "switchover-ack", "x-ignore-shared"} {
		if caps[name] {
			return nil, qmp.Errorf("Capability '%s' is not available: this guest is only memory, and goes to and comes from files", name)
		}
	}
	m.settings.caps = caps
	return nil, nil
}

func (m *Monitor) queryParameters(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings.params.Values(), nil
}

// setParameters sets parameters, those of a migration that is under way too.
func (m *Monitor) setParameters(_ context.Context, r *qmp.Request) (any, error) {
	var args migration.Parameters
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	m.mu.Lock()
	params, err := m.settings.params.With(args, m.settings.caps["mapped-ram"])
	if err == nil {
		m.settings.params = params
	}
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m.out.Change(m.current())
	return nil, nil
}

// migrating reports whether a migration, outgoing or incoming, is under way.
func (m *Monitor) migrating() bool { return m.out.Active() || m.in.loading() }
