// SPDX-License-Identifier: Apache-2.0

// Package restore starts VMs from images: one with Restore, many from the same image with Clone.
//
// The guest's memory is mapped copy-on-write from the image (Instant) or read before the guest runs (Eager). All other state, the
// state stream, is loaded by QEMU itself.
//
// Before QEMU starts, a restore looks for whatever the new VM would share with a running one: memory files, sockets, disks, locks.
// The guest runs only after everything else is done. When a restore fails there is no VM, and the image is as it was.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/qemu"
)

// Mode is the way in which memory gets into a VM.
type Mode string

// Instant maps memory from the image; Eager reads all of it before the guest runs.
const (
	Instant Mode = "instant"
	Eager   Mode = "eager"
)

// Options are what Restore can be told. Only Image is required.
type Options struct {
	Image    string
	Base     string   // the base, if the image is a diff; where the diff says if empty
	Mode     Mode     // Instant if empty
	Command  []string // QEMU's arguments, or program and arguments; the recorded ones if nil
	Set      []string // what to change in them; see cmdline.Args.Set
	Socket   string   // where the new VM's monitor listens; where the arguments say if empty
	Paused   bool     // load, do not run
	Detach   bool     // the VM outlives this process and has no terminal
	Channels int
	Direct   directio.Mode
	Verify   bool      // check every page before the VM runs; Eager does that anyway
	Scrub    bool      // make VM.Scrub possible
	Prefetch Prefetch  // Instant: bring pages in behind the guest; PrefetchOn if empty
	Began    time.Time // when the user began to wait; now if zero

	Calls    *sys.Calls // the system calls; nil: the kernel's
	Progress *image.Progress
	Log      func(string)
	Warn     func(string) // optional: what the user should know before the guest runs

	number string // of a clone, in decimal: replaces {n} in the command line; "" if this is no clone
}

func (o Options) withDefaults() Options {
	if o.Began.IsZero() {
		o.Began = time.Now()
	}
	o.Mode, o.Prefetch = cmp.Or(o.Mode, Instant), cmp.Or(o.Prefetch, PrefetchOn)
	return o
}

func (o Options) log(format string, args ...any) {
	if o.Log != nil {
		o.Log(fmt.Sprintf(format, args...))
	}
}

// Result is what `ramjet restore --detach --json` prints. Times are in seconds.
type Result struct {
	PID            int     `json:"pid"`
	QMP            string  `json:"qmp"`
	Mode           Mode    `json:"mode"`
	Status         string  `json:"status"`          // QEMU's name of the VM's state after the load: running, paused, suspended ...
	RunningSeconds float64 `json:"running_seconds"` // Began to guest running (or loaded, with Paused)
	LoadSeconds    float64 `json:"load_seconds"`    // of these, from QEMU's greeting on
	// How memory was read, direct or buffered, and half a sentence why. Of Eager only, if not all of it came through the state stream.
	IO    string `json:"io,omitempty"`
	IOWhy string `json:"io_why,omitempty"`
	// Began to all of memory resident: in the process or the page cache. 0 if nobody waited for that.
	ResidentSeconds float64 `json:"resident_seconds,omitempty"`
}

// VM is a restored VM.
type VM struct {
	Result
	incoming *qemu.Incoming
	image    *image.File // for Scrub, else nil
}

// Wait returns QEMU's exit status when it ends.
func (v *VM) Wait() int { return v.incoming.ExitCode() }

// Signal passes a signal on to QEMU.
func (v *VM) Signal(s os.Signal) { v.incoming.Signal(s) }

// restore is one Restore under way.
type restore struct {
	o       Options
	image   *image.Image
	launch  qemu.Launch
	outside map[string]bool // names of the blocks whose memory does not come through the state stream
	state   *stateStream
	scrubs  *image.File // the file of the image that the VM keeps open for Scrub; nil: none
}

// Restore starts a VM from an image. On an error there is no VM, and the image is as it was.
func Restore(ctx context.Context, o Options) (*VM, error) {
	r, err := open(o)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.launch.CheckFree(); err != nil {
		return nil, err
	}
	vm, err := r.start(ctx, r.check)
	return vm, image.Interrupted(ctx, err)
}

// open opens the image and its base, settles the command line and decides where each block's memory comes from.
func open(o Options) (_ *restore, err error) {
	r := &restore{o: o.withDefaults()}
	if r.image, err = image.Open(o.Image, o.Base, o.Calls); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if why := image.NotRestorable(r.image.Config); why != "" {
		return nil, fmt.Errorf("%s %s", o.Image, why)
	}
	if r.launch, err = settleCommandLine(r.o, r.image); err != nil {
		return nil, err
	}
	r.outside, err = placeMemory(r.o.Mode, r.image, &r.launch)
	return r, err
}

// check checks the image and makes the state stream from it.
func (r *restore) check(ctx context.Context) (err error) {
	if err := checkImage(ctx, r.o, r.image); err != nil {
		return err
	}
	r.state, err = r.stateWriter().open(ctx)
	return err
}

func (r *restore) stateWriter() *stateWriter { return &stateWriter{r.o, r.image, r.outside} }

// start starts QEMU and makes it the VM. Meanwhile check runs, if it is not nil: a QEMU that starts changes nothing outside itself
// before its guest runs, and the command line was checked when the image was opened, as the seal's metadata has a sum of its own.
func (r *restore) start(ctx context.Context, check func(context.Context) error) (*VM, error) {
	f := fill(ctx, r.o, r.image, r.outside, check)
	v, err := r.startQEMU(f.ctx, f)
	return v, f.end(err)
}

func (r *restore) startQEMU(ctx context.Context, f *filling) (_ *VM, err error) {
	r.o.Progress.SetPhase("starting QEMU")
	in, err := r.launch.Start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Kill())
		}
	}()
	greeted := time.Now()
	if err := r.load(ctx, in, f); err != nil {
		return nil, err
	}
	v := &VM{incoming: in, Result: Result{
		PID: in.PID, QMP: r.launch.FinalArgs().Monitor(r.launch.Dir), Mode: r.o.Mode,
		RunningSeconds: time.Since(r.o.Began).Seconds(), LoadSeconds: time.Since(greeted).Seconds(),
	}}
	if f.io.Why != "" {
		v.IO, v.IOWhy = f.io.String(), f.io.Why
	}
	if v.Status, err = r.status(ctx, in); err != nil {
		return nil, err
	}
	in.Release()
	r.prefetchBehind(ctx, v)
	if r.o.Scrub {
		r.keepForScrub(v)
	}
	return v, nil
}

// load brings memory and devices into a QEMU that waits for them, and lets the guest run.
func (r *restore) load(ctx context.Context, in *qemu.Incoming, f *filling) error {
	blocks, err := qemu.QueryRAMBlocks(ctx, in.QMP)
	if err != nil {
		return err
	}
	if err := compareMemory(r.image.Blocks, blocks); err != nil {
		return err
	}
	if err := compareDisks(ctx, r.o, r.image.Seal, in, r.launch.Dir); err != nil {
		return err
	}
	if err := f.waitForCheck(); err != nil {
		return err
	}
	if err := compareProcessors(ctx, in, r.state.processors); err != nil {
		return err
	}
	loading, err := in.Offer(ctx, r.state.file)
	if err != nil {
		return err
	}
	if err := f.into(in, blocks); err != nil {
		return err
	}
	r.o.Progress.SetPhase("loading device state")
	if err := loading.Load(ctx); err != nil {
		return err
	}
	if r.o.Paused || !r.state.wasRunning {
		return nil
	}
	if err := in.Cont(ctx); err != nil {
		return fmt.Errorf("the VM is loaded but does not run: %w", err)
	}
	return nil
}

// status returns the state of the loaded VM. A VM that was let go on, and whose guest is awake, runs; QEMU is not asked, since it is
// slow to answer while its guest begins.
func (r *restore) status(ctx context.Context, in *qemu.Incoming) (string, error) {
	if !r.o.Paused && r.state.wasRunning && !r.state.asleep {
		return "running", nil
	}
	return in.Status(ctx)
}

// keepForScrub leaves to the VM the file that its memory is mapped from. Of a diff that is the base; all that the diff itself has was
// read and checked.
func (r *restore) keepForScrub(v *VM) {
	r.scrubs = r.image.File
	if r.image.Base != nil {
		r.scrubs = r.image.Base
	}
	v.image = r.scrubs
}

func (r *restore) close() {
	for _, f := range []*image.File{r.image.File, r.image.Base} {
		if f != nil && f != r.scrubs {
			f.Close()
		}
	}
	if r.state != nil {
		r.state.file.Close()
	}
}
