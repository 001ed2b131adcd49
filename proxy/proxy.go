// SPDX-License-Identifier: Apache-2.0

// Package proxy is a monitor in front of a real QEMU (`ramjet serve --vm`). Clients speak QMP to it as to QEMU and find
// everything as there, but migrations to and from mapped-ram files are done by Ramjet's engine, on that QEMU's memory
// and device state.
//
//	client --QMP--> proxy --QMP--> QEMU's monitor
//	                  |
//	                  +--> guest memory (/proc/PID), device state (xen-save-devices-state), the client's descriptors
//
// Commands, ids, errors, events and descriptors pass both ways unchanged. Descriptor sets are QEMU's own, so that a set
// can be used for a disk as well. When a migration names a set, the proxy copies its descriptors out of QEMU
// (pidfd_getfd(2)), checks the whole set, and refuses one that would crash QEMU or lose data before anything is
// changed.
//
// Not forwarded are migrate and migrate-incoming with a file and the capability mapped-ram, and query-migrate,
// migrate-continue and migrate_cancel when the last migration was such a one. query-status, cont, stop and query-fdsets
// are forwarded, and their answers are changed to what QEMU would answer had it migrated by itself.
//
// While the guest is stopped by a migration, a guardian process is ready to resume it if the proxy dies.
package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
)

// Proxy is the monitor in front of one QEMU. Its methods may be called by any goroutine, Close once.
type Proxy struct {
	vm    *qemu.VM
	state *qemu.StateFile // for device state, of all migrations: a new one would need a path
	pause *qemu.Pause
	paths bool
	log   func(migration.Report) // may be nil

	sets fdset.Sets // of the migration that is under way
	out  *migration.Outgoing

	mu     sync.Mutex
	ours   bool // the last migration was done by the proxy
	filled bool // a failed load may have left pages in QEMU's memory
}

// Options are the options of a Proxy.
type Options struct {
	Socket string // QEMU's monitor
	PID    int    // QEMU's process; 0: the socket's peer
	// Paths allows mapped-ram migration to and from files by path, which this process then opens.
	Paths bool
	// Log, if not nil, is given a report of each migration that has ended, by the proxy or by QEMU.
	Log func(migration.Report)
}

// New attaches to a QEMU. Its events go to s, whose greeting and commands it sets.
func New(ctx context.Context, s *qmp.Server, o Options) (*Proxy, error) {
	dialer := qmp.Dialer{OOB: true, Events: func(e qmp.Event) { _ = s.Emit(e) }}
	m, err := dialer.Dial(ctx, o.Socket)
	if err != nil {
		return nil, err
	}
	p := &Proxy{log: o.Log, paths: o.Paths}
	if p.vm, err = qemu.AttachMonitor(ctx, m, o.Socket, o.PID); err != nil {
		return nil, err
	}
	if err := p.vm.NeedsVersion(8, 0, "to have a monitor in front of it"); err != nil {
		return nil, errors.Join(err, p.vm.Close())
	}
	if err := p.standBy(ctx); err != nil {
		p.vm.Close()
		return nil, err
	}
	p.out = &migration.Outgoing{
		Ended: p.ended,
		Guest: guest{p},
		Log:   o.Log, Why: "it goes to a mapped-ram file",
		Files: migration.Files{Sets: &p.sets, Paths: o.Paths},
		Emit: func(name string, data any) {
			e := qmp.Event{Name: name}
			if data != nil {
				e.Data, _ = json.Marshal(data) // of strings and numbers
			}
			_ = s.Emit(e)
		},
	}
	s.Greeting, s.Fallback, s.Commands = m.Greeting(), p.forward, p.commands()
	s.NoOOB = !slices.Contains(s.Greeting.Capabilities, "oob")
	return p, nil
}

// standBy prepares what a migration needs, before access to the file system is given up.
func (p *Proxy) standBy(ctx context.Context) (err error) {
	if p.state, err = p.vm.NewStateFile(ctx); err != nil {
		return err
	}
	p.pause = qemu.NewPause(p.vm)
	if err = p.pause.Guard(); err == nil {
		err = p.pause.Sets(p.state.Set())
	}
	if err != nil {
		err = errors.Join(err, p.pause.Close(), p.state.Close(ctx, p.vm))
	}
	return err
}

// ended releases the descriptors and the claim on the pause when a migration has ended.
func (p *Proxy) ended() {
	p.sets.Close()
	p.pause.Unclaim()
}

func (p *Proxy) commands() map[string]qmp.Command {
	return map[string]qmp.Command{
		"migrate":                  {Run: p.migrate},
		"migrate-incoming":         {Run: p.migrateIncoming},
		"query-migrate":            {Run: p.queryMigrate},
		"migrate_cancel":           {Run: p.migrateCancel},
		"migrate-set-capabilities": {Run: p.setCapabilities},
		"migrate-set-parameters":   {Run: p.setParameters},
		"migrate-continue":         {Run: p.migrateContinue},
		"query-status":             {Run: p.queryStatus},
		"cont":                     {Run: p.cont},
		"stop":                     {Run: p.stop},
		"human-monitor-command":    {Run: p.human},
		"query-fdsets":             {Run: p.queryFDSets},
		"add-fd":                   {Run: p.addFD},
		"getfd":                    {Run: p.getFD},
	}
}

// PID is the id of QEMU's process.
func (p *Proxy) PID() int { return p.vm.PID }

// Gone is closed when QEMU has ended, or has closed the connection.
func (p *Proxy) Gone() <-chan struct{} { return p.vm.QMP.Done() }

// Close cancels a migration that is under way and disconnects from QEMU.
func (p *Proxy) Close() error {
	p.out.Cancel(nil)
	p.out.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := errors.Join(ignoreGone(p.state.Close(ctx, p.vm)), p.pause.Close())
	select {
	case <-p.Gone():
		err = nil // there is nothing left that could be in a wrong state
	default:
	}
	p.sets.Close()
	p.vm.Close()
	return err
}

// forward passes r on without its descriptors, and reads the answer. QEMU would keep a descriptor that the command does
// not take, and give it to a later command that came without one (tcp_chr_recv, qemu_chr_fe_get_msgfd).
func (p *Proxy) forward(ctx context.Context, r *qmp.Request) (any, error) {
	for _, f := range r.TakeFiles() {
		f.Close()
	}
	return p.vm.QMP.Forward(ctx, r)
}
