// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

func (m *Monitor) migrate(ctx context.Context, r *qmp.Request) (any, error) {
	var args migration.MigrateArgs
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	a, err := migration.Target{URI: args.URI, Channels: args.Channels}.Address(false)
	if err != nil {
		return nil, err
	}
	s := m.current()
	if err := s.Suits(a); err != nil {
		return nil, err
	}
	if args.Resume != nil && *args.Resume {
		return nil, qmp.Errorf("Cannot resume if there is no paused migration")
	}
	if err := m.ready(s); err != nil {
		return nil, err
	}
	return nil, m.out.Start(ctx, a, s, r.HoldEvents)
}

// ready is QEMU's migrate_prepare.
func (m *Monitor) ready(s migration.Settings) error {
	m.mu.Lock()
	state := m.state.name
	m.mu.Unlock()
	switch {
	case m.out.Active():
		return qmp.Errorf("There's a migration process in progress")
	case state == "inmigrate":
		return qmp.Errorf("Guest is waiting for an incoming migration")
	case state == "postmigrate":
		return qmp.Errorf("Can't migrate the vm that was paused due to previous migration")
	}
	return s.Ready()
}

func (m *Monitor) migrateCancel(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.out.Cancel(r.HoldEvents)
	return nil, nil
}

func (m *Monitor) migrateContinue(_ context.Context, r *qmp.Request) (any, error) {
	var args struct {
		State migration.Status `json:"state"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	return nil, m.out.Continue(string(args.State), r.HoldEvents)
}

func migratePause(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	return nil, qmp.Errorf("migrate-pause is currently only supported during postcopy-active or postcopy-recover state")
}

func (m *Monitor) queryMigrate(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	if i := m.out.Info(); i.Status != "" {
		return i, nil
	}
	return m.in.info(), nil
}
