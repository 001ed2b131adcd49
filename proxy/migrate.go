// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"

	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
)

// migrate migrates to a mapped-ram file, and forwards every other migration. Wrong arguments are forwarded as well, so
// that QEMU refuses them.
func (p *Proxy) migrate(ctx context.Context, r *qmp.Request) (any, error) {
	var args migration.MigrateArgs
	if err := r.Args(&args); err != nil {
		return p.forward(ctx, r)
	}
	a, err := migration.Target{URI: args.URI, Channels: args.Channels}.Address(false)
	if err != nil {
		return nil, err // some would crash QEMU 10.0
	}
	s, err := p.settings(ctx)
	if err != nil {
		return nil, err
	}
	why, err := p.leftToQEMU(ctx, a, s, args.Resume != nil && *args.Resume)
	if err != nil {
		return nil, err
	}
	if why != "" {
		return p.byQEMU(ctx, r, migration.Report{Why: why, File: a.File()})
	}
	if err := s.Ready(); err != nil {
		return nil, err
	}
	if err := p.takeSet(ctx, a.Path); err != nil {
		return nil, err
	}
	if s.IgnoreShared || s.UUID {
		return p.checkedByQEMU(ctx, r, a, s, "x-ignore-shared or validate-uuid is on")
	}
	err = p.start(ctx, r, a, s)
	var unsupported *qemu.Refusal
	if errors.As(err, &unsupported) {
		return p.checkedByQEMU(ctx, r, a, s, unsupported.Error())
	}
	return nil, err
}

// leftToQEMU returns the reason why QEMU has to do a migration, or "" if the proxy does it. The error is QEMU's for a
// migration that is not possible now.
func (p *Proxy) leftToQEMU(ctx context.Context, a migration.Address, s migration.Settings, resume bool) (why string, err error) {
	switch {
	case p.out.Active():
		return "", qmp.Errorf("There's a migration process in progress")
	case p.refusesAll(ctx):
		return "it refuses any other", nil
	case p.pause.State() == qemu.Left:
		return "", qmp.Errorf("Can't migrate the vm that was paused due to previous migration")
	case a.Transport != "file":
		return "it does not go to a file", nil
	case !s.MappedRAM:
		return "the capability mapped-ram is off, or the mode is not normal", nil
	case resume:
		return "it goes on with one that was interrupted", nil
	}
	return "", nil
}

// refusesAll reports whether QEMU would refuse any migration now. Then it is asked, so that the client gets its reason.
func (p *Proxy) refusesAll(ctx context.Context) bool {
	if status, err := p.vm.Status(ctx); err == nil && status == "postmigrate" {
		return true // QEMU has migrated this guest
	}
	var refusal *qemu.Refusal
	return errors.As(p.vm.Migratable(ctx), &refusal)
}

// start begins a migration by Ramjet's engine. When it has begun, its descriptors and the claim on the pause are given
// back by ended.
func (p *Proxy) start(ctx context.Context, r *qmp.Request, a migration.Address, s migration.Settings) error {
	if err := p.pause.Claim(); err != nil {
		p.sets.Close()
		return err
	}
	err := p.out.Start(ctx, a, s, r.HoldEvents)
	var unsupported *qemu.Refusal
	if err != nil {
		p.pause.Unclaim()
	}
	if errors.As(err, &unsupported) {
		return err // QEMU uses the descriptors
	}
	if err != nil {
		p.sets.Close()
	}
	if p.out.Info().Status != "" {
		p.setLastIsOurs(true)
	}
	return err
}

// checkedByQEMU has QEMU write a mapped-ram file if the descriptor set is right: a wrong one would crash QEMU.
func (p *Proxy) checkedByQEMU(ctx context.Context, r *qmp.Request, a migration.Address, s migration.Settings, why string) (any, error) {
	defer p.sets.Close()
	opened, err := p.out.Files.Open(a, s.Need(true))
	if err != nil {
		return nil, err
	}
	opened.Close()
	return p.byQEMU(ctx, r, migration.Report{Why: why, File: a.File()})
}

// byQEMU forwards a command that migrates, and logs the result when the migration has ended.
func (p *Proxy) byQEMU(ctx context.Context, r *qmp.Request, report migration.Report) (any, error) {
	answer, err := p.forward(ctx, r)
	if err == nil {
		p.setLastIsOurs(false)
		report.Engine = "qemu"
		go p.follow(report)
	}
	return answer, err
}

// lastIsOurs reports whether the last migration was done by the proxy.
func (p *Proxy) lastIsOurs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ours
}

func (p *Proxy) setLastIsOurs(ours bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ours = ours
}

func (p *Proxy) queryMigrate(ctx context.Context, r *qmp.Request) (any, error) {
	if !p.lastIsOurs() {
		return p.forward(ctx, r)
	}
	return p.out.Info(), r.Args(nil)
}

func (p *Proxy) migrateCancel(ctx context.Context, r *qmp.Request) (any, error) {
	if !p.lastIsOurs() {
		return p.forward(ctx, r)
	}
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	p.out.Cancel(r.HoldEvents)
	return nil, nil
}

func (p *Proxy) migrateContinue(ctx context.Context, r *qmp.Request) (any, error) {
	if !p.lastIsOurs() {
		return p.forward(ctx, r)
	}
	var args struct {
		State migration.Status `json:"state"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	return nil, p.out.Continue(string(args.State), r.HoldEvents)
}
