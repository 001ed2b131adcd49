// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"

	"github.com/ramjet-vm/ramjet/qmp"
)

// MigrateArgs are the arguments of migrate.
type MigrateArgs struct {
	URI      *string   `json:"uri"`
	Channels []Channel `json:"channels,omitempty"`
	Detach   *bool     `json:"detach"`
	Resume   *bool     `json:"resume"`
}

func (m *Monitor) migrate(ctx context.Context, r *qmp.Request) (any, error) {
	var args MigrateArgs
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	a, err := Target{args.URI, args.Channels}.Address(false)
	if err != nil {
		return nil, err
	}
	s := m.current()
	if err := s.suits(a); err != nil {
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

// suits is QEMU's migration_channels_and_transport_compatible, and what this engine does not do.
func (s Settings) suits(a Address) error {
	switch {
	case s.MappedRAM && a.Transport != "file":
		return qmp.Errorf("Migration requires seekable transport (e.g. file)")
	case s.Multifd && a.Transport == "file" && !s.MappedRAM:
		return qmp.Errorf("Migration requires multi-channel URIs (e.g. tcp)")
	case a.Transport != "file":
		return qmp.Errorf("this guest goes to and comes from files: use file:/dev/fdset/N")
	}
	return nil
}

// ready is QEMU's migrate_prepare.
func (m *Monitor) ready(s Settings) error {
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

// Ready refuses settings that are nothing for files.
func (s Settings) Ready() error {
	switch {
	case s.MappedRAM && s.TLS:
		return qmp.Errorf("Cannot use TLS with mapped-ram")
	case s.MappedRAM && s.Compression != "none":
		return qmp.Errorf("Cannot use compression with mapped-ram")
	case s.TLS:
		return qmp.Errorf("a file cannot be encrypted: set tls-creds to \"\"")
	}
	return nil
}

func (m *Monitor) migrateCancel(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.out.Cancel(r.HoldEvents)
	return nil, nil
}

// MigrationStatus is the type of the schema.
type MigrationStatus string

// Values lists them.
func (MigrationStatus) Values() []string {
	return []string{"none", "setup", "cancelling", "cancelled", "active", "postcopy-active", "postcopy-paused",
		"postcopy-recover-setup", "postcopy-recover", "completed", "failed", "colo", "pre-switchover", "device", "wait-unplug"}
}

func (m *Monitor) migrateContinue(_ context.Context, r *qmp.Request) (any, error) {
	var args struct {
		State MigrationStatus `json:"state"`
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
