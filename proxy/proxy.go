// SPDX-License-Identifier: Apache-2.0

// Package proxy is a monitor in front of a real QEMU (`ramjet serve --vm`): clients that speak QMP to that QEMU speak to
// it instead and find everything as it was, but migrations to and from mapped-ram files are done by Ramjet's engine, on
// that QEMU's memory and device state.
//
//	client --QMP--> proxy --QMP--> QEMU's monitor
//	                  |
//	                  +--> guest memory (/proc/PID), device state (xen-save-devices-state), the client's descriptors
//
// Commands, ids, errors, events and descriptors pass both ways as they are. Descriptor sets are QEMU's own, so that a
// set can be used for a disk as well; when one is named in a migration, the proxy takes its descriptors out of QEMU
// (pidfd_getfd(2)), looks at all of the set, and refuses what would crash QEMU or lose data before anything is touched.
//
// What is not forwarded: migrate and migrate-incoming with a file and the capability mapped-ram; query-migrate and
// migrate_cancel when such a migration was the last; query-status, cont, stop and query-fdsets are forwarded, and their
// answers are told as QEMU would have told them had it migrated by itself.
//
// While the guest stands still because of a migration a guardian process is ready to let it go on if the proxy dies.
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

// Proxy stands in front of one QEMU.
type Proxy struct {
	vm    *qemu.VM
	state *qemu.StateFile // for all migrations: a new one needs a path
	pause *qemu.Pause
	paths bool
	log   func(migration.Report) // may be nil

	sets fdset.Sets // of the migration that is under way
	out  *migration.Outgoing

	mu     sync.Mutex
	ours   bool // the last migration was done here
	filled bool // a load that failed may have left pages behind
}

// Options are what a Proxy can be told.
type Options struct {
	Socket string // QEMU's monitor
	PID    int    // QEMU's process; 0: the socket's peer
	// Paths allows mapped-ram migration to and from files by their names, which this process then opens.
	Paths bool
	// Log, if not nil, is told what has become of each migration, whoever did it.
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

// standBy makes ready what a migration needs, before access to the file system is given up.
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

// ended gives back what a migration had.
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

// PID is the QEMU's process.
func (p *Proxy) PID() int { return p.vm.PID }

// Gone is closed when the QEMU has ended, or has dropped the connection.
func (p *Proxy) Gone() <-chan struct{} { return p.vm.QMP.Done() }

// Close cancels what is under way and lets the QEMU alone.
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

// forward passes r on, without descriptors, and reads the answer. What a command does not take QEMU would keep, and
// give to a later one that came without (tcp_chr_recv, qemu_chr_fe_get_msgfd).
func (p *Proxy) forward(ctx context.Context, r *qmp.Request) (any, error) {
	for _, f := range r.TakeFiles() {
		f.Close()
	}
	return p.vm.QMP.Forward(ctx, r)
}
