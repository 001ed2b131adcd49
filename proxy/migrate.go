// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
)

// settings asks QEMU for its capabilities and parameters.
func (p *Proxy) settings(ctx context.Context) (s monitor.Settings, err error) {
	var caps []struct {
		Capability string
		State      bool
	}
	if err := p.vm.Monitor.Execute(ctx, "query-migrate-capabilities", nil, &caps); err != nil {
		return s, err
	}
	on := map[string]bool{}
	for _, c := range caps {
		on[c.Capability] = c.State
	}
	var params struct {
		Channels    int    `json:"multifd-channels"`
		DirectIO    bool   `json:"direct-io"`
		Bandwidth   uint64 `json:"max-bandwidth"`
		ZeroPages   string `json:"zero-page-detection"`
		Compression string `json:"multifd-compression"`
		TLS         string `json:"tls-creds"`
		Mode        string `json:"mode"`
	}
	if err := p.vm.Monitor.Execute(ctx, "query-migrate-parameters", nil, &params); err != nil {
		return s, err
	}
	return monitor.Settings{
		Events: on["events"], MappedRAM: on["mapped-ram"] && (params.Mode == "normal" || params.Mode == ""), Multifd: on["multifd"],
		IgnoreShared: on["x-ignore-shared"], Channels: params.Channels, DirectIO: params.DirectIO, MaxBandwidth: params.Bandwidth,
		ZeroPages: params.ZeroPages, Compression: params.Compression, TLS: params.TLS != "",
		Pause: on["pause-before-switchover"], UUID: on["validate-uuid"],
	}, nil
}

// migrate does a migration to a mapped-ram file itself, and has QEMU do every other one, and say what is wrong with
// arguments that are none of ours.
func (p *Proxy) migrate(ctx context.Context, r *qmp.Request) (any, error) {
	var args monitor.MigrateArgs
	if err := r.Args(&args); err != nil {
		return p.forward(ctx, r) // which says so
	}
	a, err := monitor.Target{URI: args.URI, Channels: args.Channels}.Address(false)
	if err != nil {
		return nil, err // QEMU 10.0 would crash at some
	}
	s, err := p.settings(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case p.out.Active():
		return nil, qmp.Errorf("There's a migration process in progress")
	case p.refusedThere(ctx):
		return p.migrateThere(ctx, r, a, "it refuses any other")
	case p.pause.State() == qemu.Left:
		return nil, qmp.Errorf("Can't migrate the vm that was paused due to previous migration")
	case a.Transport != "file":
		return p.migrateThere(ctx, r, a, "it does not go to a file")
	case !s.MappedRAM:
		return p.migrateThere(ctx, r, a, "the capability mapped-ram is off, or the mode is not normal")
	case args.Resume != nil && *args.Resume:
		return p.migrateThere(ctx, r, a, "it goes on with one that was interrupted")
	}
	if err := s.Ready(); err != nil {
		return nil, err
	}
	if err := p.takeSet(ctx, a.Path); err != nil {
		return nil, err
	}
	if s.IgnoreShared || s.UUID {
		return p.migrateChecked(ctx, r, a, s, "x-ignore-shared or validate-uuid is on")
	}
	if err := p.pause.Claim(); err != nil {
		p.sets.Close()
		return nil, err
	}
	err = p.out.Start(ctx, a, s, r.HoldEvents)
	if err != nil {
		p.pause.Unclaim()
	}
	var no *qemu.Refusal
	if errors.As(err, &no) {
		return p.migrateChecked(ctx, r, a, s, no.Error())
	}
	if err != nil {
		p.sets.Close() // it may not have come as far as to end
	}
	if p.out.Info().Status != "" {
		p.mu.Lock()
		p.ours = true
		p.mu.Unlock()
	}
	return nil, err
}

// refusedThere tells whether QEMU would not migrate now whatever it was asked, and so has to say why.
func (p *Proxy) refusedThere(ctx context.Context) bool {
	if status, err := p.vm.Status(ctx); err == nil && status == "postmigrate" {
		return true // of a migration that QEMU did
	}
	var no *qemu.Refusal
	return errors.As(p.vm.Migratable(ctx), &no)
}

// migrateChecked has QEMU write a mapped-ram file itself, unless that would crash it.
func (p *Proxy) migrateChecked(ctx context.Context, r *qmp.Request, a monitor.Address, s monitor.Settings, why string) (any, error) {
	defer p.sets.Close()
	opened, err := p.out.Files.Open(a, fdset.Need{Write: true, Channels: s.PageChannels(), Direct: s.Direct()})
	if err != nil {
		return nil, err
	}
	opened.Close()
	return p.migrateThere(ctx, r, a, why)
}

// migrateThere has QEMU migrate; why is for the log.
func (p *Proxy) migrateThere(ctx context.Context, r *qmp.Request, a monitor.Address, why string) (any, error) {
	answer, err := p.forward(ctx, r)
	if err == nil {
		p.mu.Lock()
		p.ours = false
		p.mu.Unlock()
		go p.follow(monitor.Report{Engine: "qemu", Why: why, File: a.File()})
	}
	return answer, err
}

func (p *Proxy) lastIsOurs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ours
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

func (p *Proxy) setCapabilities(ctx context.Context, r *qmp.Request) (any, error) {
	if p.out.Active() {
		return nil, qmp.Errorf("There's a migration process in progress")
	}
	return p.forward(ctx, r)
}

// trap is what QEMU says to every change of parameters while compression or TLS is on together with mapped-ram, to that
// which switches it off too (migrate_params_check looks at the values before the change).
const trap = "Mapped-ram only available for non-compressed non-TLS multifd migration"

// setParameters sets QEMU's parameters, and those of a migration that is under way.
func (p *Proxy) setParameters(ctx context.Context, r *qmp.Request) (any, error) {
	answer, err := p.setOutOfTrap(ctx, r)
	if err == nil {
		err = p.change(ctx)
	}
	return answer, err
}

// change has a migration of ours that is under way go on with the parameters that QEMU has now.
func (p *Proxy) change(ctx context.Context) error {
	if !p.out.Active() {
		return nil
	}
	s, err := p.settings(ctx)
	if err == nil {
		p.out.Change(s)
	}
	return err
}

// setOutOfTrap sets QEMU's parameters, and leads out of the trap.
func (p *Proxy) setOutOfTrap(ctx context.Context, r *qmp.Request) (any, error) {
	args := r.Arguments()
	answer, err := p.forward(ctx, r)
	var e *qmp.Error
	var asked struct {
		Compression *string `json:"multifd-compression"`
		TLS         *string `json:"tls-creds"`
	}
	if !errors.As(err, &e) || e.Desc != trap || json.Unmarshal(args, &asked) != nil {
		return answer, err
	}
	s, serr := p.settings(ctx)
	compressed := s.Compression != "none" && (asked.Compression == nil || *asked.Compression != "none")
	encrypted := s.TLS && (asked.TLS == nil || *asked.TLS != "")
	if serr != nil || compressed || encrypted {
		return nil, err
	}
	mapped := func(on bool) error {
		list := []any{map[string]any{"capability": "mapped-ram", "state": on}}
		return p.vm.Monitor.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": list}, nil)
	}
	if err := mapped(false); err != nil {
		return nil, err
	}
	err = p.vm.Monitor.Execute(ctx, "migrate-set-parameters", args, nil)
	return nil, errors.Join(err, mapped(true))
}

func (p *Proxy) migrateContinue(ctx context.Context, r *qmp.Request) (any, error) {
	if !p.lastIsOurs() {
		return p.forward(ctx, r)
	}
	var args struct {
		State monitor.MigrationStatus `json:"state"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	return nil, p.out.Continue(string(args.State), r.HoldEvents)
}
