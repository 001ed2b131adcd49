// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Outgoing is migration of a guest to files: one at a time, and what became of the last. Set Guest, Files and Emit before
// use; all methods may be called by several goroutines at a time.
//
// The states, and the events that tell of them, are those of QEMU 10:
//
//	setup -> active -> [pre-switchover ->] device -> completed
//	any but completed -> failed
//	any but completed -> cancelling -> cancelled
type Outgoing struct {
	Guest Guest
	Files Files
	Emit  func(event string, data any)
	// Ended, if not nil, is called when a migration that was begun has ended, before anybody is told.
	Ended func()
	// Log, if not nil, is told what has become of each migration that was begun; Why is what it is told of the engine.
	Log func(Report)
	Why string

	mu     sync.Mutex
	status string // "": none yet
	desc   string // why it failed
	events bool
	stats  statistics
	file   string                  // where the last one went
	limit  *transfer.Limit         // of page data
	cancel context.CancelCauseFunc // nil when none is under way
	final  bool                    // the file is being published, too late to cancel
	// unlimited: the guest was stopped for what is being written, and stands still no longer than it takes
	unlimited bool
	done      chan struct{}
	goOn      chan struct{} // closed by Continue; nil unless in pre-switchover
}

// errCancelled is why a cancelled migration ends.
var errCancelled = errors.New("cancelled")

// Start begins a migration. It returns when the main channel is open, with the error if that could not be; the rest goes on
// by itself. The caller has checked that a migration to such an address is possible now.
//
// answer is called when the events that QEMU sends before its answer to the command have been emitted, here and in Continue and
// Cancel: it has later ones wait for the answer (qmp.Request.HoldEvents). It may be nil.
func (o *Outgoing) Start(ctx context.Context, a Address, s Settings, answer func()) error {
	view, err := o.Guest.Open(ctx)
	if err != nil {
		return err
	}
	run, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	o.mu.Lock()
	if o.cancel != nil {
		o.mu.Unlock()
		cancel(nil)
		return errors.Join(qmp.Errorf("There's a migration process in progress"), view.Close())
	}
	o.desc, o.events, o.cancel, o.done, o.final = "", s.Events, cancel, done, false
	o.file = a.File()
	o.limit, o.unlimited = transfer.NewLimit(s.bandwidth()), false
	o.stats = statistics{begun: time.Now(), multifd: s.Multifd, writeZeros: s.ZeroPages == "none", total: view.Total()}
	o.set(statusSetup)
	o.mu.Unlock()

	t := &migrating{Outgoing: o, address: a, settings: s, view: view}
	t.opened, err = o.Files.Open(a, fdset.Need{Write: true, Channels: s.PageChannels(), Direct: s.Direct()})
	if err == nil {
		if err = truncate(t.opened.Main, a.Offset); err != nil {
			t.opened.Close()
		}
	}
	if err != nil {
		view.Close()
		o.end(err)
		close(done)
		return err
	}
	called(answer)
	go func() {
		defer close(done)
		o.end(t.run(run))
	}()
	return nil
}

func called(f func()) {
	if f != nil {
		f()
	}
}

// set changes the status, with o.mu held.
func (o *Outgoing) set(status string) {
	o.status = status
	if o.events {
		o.Emit("MIGRATION", map[string]string{"status": status})
	}
}

// advance changes the status unless the migration is being cancelled.
func (o *Outgoing) advance(status string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.status == statusCancelling {
		return
	}
	if status == statusActive {
		o.stats.active = time.Now()
	}
	o.set(status)
}

// pass counts a look at all of the memory.
func (o *Outgoing) pass() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.passes++
	if o.events {
		o.Emit("MIGRATION_PASS", map[string]int{"pass": o.stats.passes})
	}
}

// pause waits in pre-switchover until somebody says continue.
func (o *Outgoing) pause(ctx context.Context) error {
	o.mu.Lock()
	goOn := make(chan struct{})
	if o.status != statusCancelling {
		o.goOn = goOn
		o.set(statusPaused)
	}
	o.mu.Unlock()
	select {
	case <-goOn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Continue lets a migration go on that waits in pre-switchover; state is what the client thinks it is in. For answer see Start.
func (o *Outgoing) Continue(state string, answer func()) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	status := o.status
	if status == "" {
		status = "none"
	}
	if status != state {
		return qmp.Errorf("Migration not in expected state: %s", status)
	}
	if o.goOn != nil {
		called(answer)
		close(o.goOn)
		o.goOn = nil
	}
	return nil
}

// commit tells whether the file may be published; from then on it is too late to cancel.
func (o *Outgoing) commit() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.status == statusCancelling {
		return errCancelled
	}
	o.final = true
	return nil
}

// end says how it ended.
func (o *Outgoing) end(err error) {
	if o.Ended != nil {
		o.Ended()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.ended = time.Now()
	o.cancel(nil)
	o.cancel, o.goOn = nil, nil
	switch {
	case err == nil:
		o.set(statusCompleted)
	case o.status == statusCancelling:
		o.set(statusCancelled)
	default:
		o.desc = oneLine(err)
		o.set(statusFailed)
	}
	if o.Log != nil {
		o.Log(o.report(err))
	}
}

// Cancel ends the migration that is under way, if one is. It does not wait for it. For answer see Start.
func (o *Outgoing) Cancel(answer func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cancel == nil || o.final || o.status == statusCancelling {
		return
	}
	o.set(statusCancelling)
	called(answer)
	o.cancel(errCancelled)
}

// Change has the migration that is under way, if one is, go on with those settings that count while it does: how fast pages are
// written, and whether pages of zeros count as written. QEMU takes other ones too, which count for the next migration.
func (o *Outgoing) Change(s Settings) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cancel == nil || o.final {
		return
	}
	if !o.unlimited {
		o.limit.Set(s.bandwidth())
	}
	o.stats.writeZeros = s.ZeroPages == "none"
}

// hurry lifts the limit for what is left when the guest stands still (QEMU migration_switchover_start).
func (o *Outgoing) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unlimited = true
	o.limit.Set(0)
}

// writeZeros reports whether pages of zeros count as written.
func (o *Outgoing) writeZeros() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stats.writeZeros
}

// Active tells whether a migration is under way.
func (o *Outgoing) Active() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cancel != nil
}

// Completed tells whether the last migration has completed.
func (o *Outgoing) Completed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.status == statusCompleted
}

// Wait waits until no migration is under way.
func (o *Outgoing) Wait() {
	o.mu.Lock()
	done := o.done
	o.mu.Unlock()
	if done != nil {
		<-done
	}
}

// Info is the answer to query-migrate; its Status is empty if there has been no migration.
func (o *Outgoing) Info() Info {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := Info{Status: o.status}
	switch o.status {
	case statusActive, statusPaused, statusDevice, statusCompleted:
		o.stats.fill(&i, time.Now())
	case statusFailed:
		i.Error = o.desc
	}
	return i
}
