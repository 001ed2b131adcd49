// SPDX-License-Identifier: Apache-2.0

// Package migration is QEMU's migration to and from files, done by Ramjet's engine, with QEMU 10's addresses, settings,
// states, events, statistics and error texts. A monitor of a guest that is only memory uses it, and a monitor in front
// of a real QEMU.
//
// What it promises beyond QEMU:
//
//   - A migration that cannot succeed is refused before anything is changed: the guest runs on, and the descriptors
//     that the client passed keep their flags and positions.
//   - Page data goes through the descriptor with O_DIRECT, where direct-io is on, and nothing else does: headers,
//     bitmaps and device state are written through the one without.
//   - The status becomes "completed" when the file is durable (fsync(2)). The file's first eight bytes are written
//     last, so a file that is not complete is not taken for an image.
//   - A failed migration, outgoing or incoming, can be tried again.
package migration

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Outgoing migrates a guest to files, one migration at a time, and keeps the result of the last. Guest, Files and Emit
// must be set before use; all methods may be called by any goroutine at any time.
//
// The states, and the events that report them, are those of QEMU 10:
//
//	setup -> active -> [pre-switchover ->] device -> completed
//	any but completed -> failed
//	any but completed -> cancelling -> cancelled
type Outgoing struct {
	Guest Guest
	Files Files
	Emit  func(event string, data any)
	// Ended, if not nil, is called when a migration that was begun has ended, before its last status is set.
	Ended func()
	// Log, if not nil, is given a report of each migration that was begun; Why is the report's reason for the choice of
	// the engine.
	Log func(Report)
	Why string
	// Calls are the system calls on the file of page data, headers and device state; nil: the kernel's.
	Calls *sys.Calls

	mu      sync.Mutex // guards what is below
	status  string     // "": there has been no migration
	failure string     // the error of a failed migration
	events  bool       // emit events
	stats   statistics
	file    string                  // of the last migration
	limit   *transfer.Limit         // of page data
	cancel  context.CancelCauseFunc // nil when no migration is under way
	// publishing: the file is being published, and it is too late to cancel.
	publishing bool
	// unlimited: the guest has been stopped, and what is left is written without a limit.
	unlimited bool
	done      chan struct{} // closed when the migration has ended
	goOn      chan struct{} // closed by Continue; nil unless in pre-switchover
}

// errCancelled is the error of a cancelled migration.
var errCancelled = errors.New("cancelled")

// cleanupTimeout bounds the wait for the guest when all that is left is to resume it after a failure.
const cleanupTimeout = 20 * time.Second

// Start begins a migration. It returns when the main channel is open, or with the error of opening it; the rest goes on
// in a goroutine of its own. The caller has checked that a migration to such an address is possible now.
//
// answer is called when the events that QEMU emits before its answer to the command have been emitted, here and in
// Continue and Cancel: it has later events wait for the answer (qmp.Request.HoldEvents). It may be nil.
func (o *Outgoing) Start(ctx context.Context, a Address, s Settings, answer func()) error {
	view, err := o.Guest.Open(ctx)
	if err != nil {
		return err
	}
	run, err := o.begin(view, a, s)
	if err != nil {
		return errors.Join(err, view.Close())
	}
	r := &outgoingRun{o: o, address: a, settings: s, view: view}
	if err := r.open(); err != nil {
		view.Close()
		o.end(err)
		return err
	}
	called(answer)
	go func() { o.end(r.run(run)) }()
	return nil
}

func called(f func()) {
	if f != nil {
		f()
	}
}

// outgoingRun is one migration that is under way.
type outgoingRun struct {
	o        *Outgoing // its status and statistics
	address  Address
	settings Settings
	view     *View
	opened   *Opened

	file   *directio.File // for headers, bitmaps and device state
	device bool           // file is a block device
	layout *mappedram.Layout
	engine *transfer.Save
	sums   *transfer.Sums // of pages that were written while the guest ran; may be nil
}

// open opens the file and drops what it holds behind the address.
func (r *outgoingRun) open() (err error) {
	if r.opened, err = r.o.Files.Open(r.address, r.settings.Need(true)); err != nil {
		return err
	}
	if err = truncate(r.opened.Main, r.address.Offset); err != nil {
		r.opened.Close()
	}
	return err
}

// run migrates, and restores the guest and the file if that fails.
func (r *outgoingRun) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, r.view.Close()) }()
	// An error of close says nothing about the image, which is durable by then, or worthless.
	defer r.opened.Close()
	if r.file, err = directio.NewFile(r.opened.Main, r.o.Calls); err != nil {
		return err
	}
	if r.device, err = directio.IsDevice(r.file.File); err == nil {
		err = r.migrate(ctx)
	}
	if err != nil {
		// An incomplete image is of no use, and it may have filled the disk.
		_ = truncate(r.file.File, r.address.Offset)
		resume, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, r.o.Guest.Resume(resume))
	}
	if r.sums != nil {
		r.sums.Close()
	}
	return err
}

// migrate writes pages while the guest runs, if the file allows it, then stops the guest and writes the rest.
func (r *outgoingRun) migrate(ctx context.Context) error {
	running, err := r.o.Guest.Running(ctx)
	if err != nil {
		return err
	}
	live := running && r.settings.MappedRAM
	if err := r.prepare(ctx, live); err != nil {
		return err
	}
	r.o.countPass()
	r.o.advance(StatusActive)
	if live {
		if err := r.engine.Run(ctx); err != nil {
			return err
		}
		// This sync leaves little to be made durable while the guest is stopped.
		if err := r.file.Sync(); err != nil {
			return err
		}
	}
	return r.switchover(ctx, live)
}

// switchover stops the guest and writes what is left: changed pages and device state.
func (r *outgoingRun) switchover(ctx context.Context, live bool) error {
	stopping := time.Now()
	if err := r.o.Guest.Stop(ctx); err != nil {
		return err
	}
	r.o.record(func(s *statistics) { s.stopped = stopping })
	if err := r.refresh(ctx, live); err != nil {
		return err
	}
	if r.settings.Pause {
		if err := r.o.pause(ctx); err != nil {
			return err
		}
	}
	if live {
		r.o.liftLimit()
	}
	r.o.advance(statusDevice)
	sections, err := r.o.Guest.State(ctx)
	if err != nil {
		return err
	}
	r.o.countPass()
	write := r.writeMapped
	if !r.settings.MappedRAM {
		write = r.writePlain
	}
	if err := write(ctx, sections); err != nil {
		return err
	}
	return r.o.Guest.Done(context.WithoutCancel(ctx))
}

// mayPublish is called when everything but the file's first bytes is written. It returns an error if the guest did not
// stay stopped, or if the migration was cancelled.
func (r *outgoingRun) mayPublish(ctx context.Context) error {
	if err := r.o.Guest.Still(ctx); err != nil {
		return err
	}
	return r.o.commit()
}

// begin sets the first status. It fails if a migration is under way.
func (o *Outgoing) begin(view *View, a Address, s Settings) (context.Context, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cancel != nil {
		return nil, qmp.Errorf("There's a migration process in progress")
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	o.failure, o.events, o.cancel, o.done = "", s.Events, cancel, make(chan struct{})
	o.publishing, o.unlimited = false, false
	o.file, o.limit = a.File(), transfer.NewLimit(s.bandwidth())
	o.stats = statistics{begun: time.Now(), multifd: s.Multifd, writeZeros: s.ZeroPages == "none", total: view.Total()}
	o.set(StatusSetup)
	return ctx, nil
}

// end sets the last status.
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
		o.set(StatusCompleted)
	case o.status == statusCancelling:
		o.set(StatusCancelled)
	default:
		o.failure = OneLine(err)
		o.set(StatusFailed)
	}
	if o.Log != nil {
		o.Log(o.report(err))
	}
	close(o.done)
}
