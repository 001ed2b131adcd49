// SPDX-License-Identifier: Apache-2.0

// Package save saves a running VM into an image (Save), and memory that a program owns (Memory).
//
// The order of the steps is what makes a save safe. Save checks all that can be checked, makes its unfinished file, starts the
// guardian, and only then stops the guest. It lets the guest go on as soon as memory is written, and gives the file its name when
// all of it is durable. Whatever fails in between, the VM runs on, and the image's path has what it had before.
package save

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Engine is who moves the memory.
type Engine string

// EngineAuto is EngineRamjet unless that would not save the VM right; EngineQEMU has QEMU write the file itself.
const (
	EngineAuto   Engine = "auto"
	EngineRamjet Engine = "ramjet"
	EngineQEMU   Engine = "qemu"
)

// Then is what becomes of the VM after the save.
type Then = qemu.Then

// What becomes of it.
const (
	ThenResume = qemu.ThenResume
	ThenStay   = qemu.ThenStay
	ThenQuit   = qemu.ThenQuit
)

// Options are what Save can be told. The zero value of each but Image and one of Socket and PID is the default.
type Options struct {
	Image         string // path to be made
	Socket        string // the VM's QMP socket; looked for on PID's command line if empty
	PID           int    // QEMU's process; the socket's peer if 0
	Engine        Engine
	Then          Then
	Channels      int // 1 to 255; 0: chosen
	Direct        directio.Mode
	MaxBandwidth  int64 // bytes a second; 0: no limit
	NoCommandLine bool  // do not record how the VM was started
	Force         bool  // replace an existing image
	Live          bool  // copy memory while the guest runs, pause it only for what has changed since
	// MaxPause ends a pause that gets longer: the VM goes on and nothing is saved. 0: no limit.
	MaxPause time.Duration
	Base     string // write only what differs from this image; empty: a whole image
	// Confine gives up, for the whole process and for good, what the save does not need once it is attached. For a program that
	// does nothing else.
	Confine bool
	Began   time.Time // when the user began to wait; now if zero

	Calls    *sys.Calls      // the system calls; nil: the kernel's
	Progress *image.Progress // optional
	Log      func(s string)  // optional: gets what is decided, for people
}

// job is one Save under way.
type job struct {
	o         Options // Image is absolute, and Engine decided, when prepare has returned
	base      *base   // nil: the image will be whole
	target    *image.Target
	vm        *qemu.VM
	pause     *qemu.Pause
	space     *qemu.SpaceWatch
	io        directio.Decision
	copier    copier
	disks     []watchedDisk
	confiner  *confiner // nil: all rights are kept
	published bool
}

// copier gets the memory and the device state of one moment into the image's file. A save calls its methods in this order, each once,
// and leaves out those after one that failed, but for release and close. native and byQEMU are copiers.
type copier interface {
	// prepare does all that is possible while the guest runs.
	prepare(ctx context.Context) error
	// hold has the guest stand still, at once or as soon as copy gets there. The context is for the time until it goes on.
	hold(ctx context.Context) (context.Context, error)
	// copy returns when the guest may go on.
	copy(ctx context.Context) error
	// release gives back to QEMU what the copier borrowed. The guest runs again, unless something failed or the VM is not to resume.
	release() error
	// complete writes what the image lacks and seals it. m says where the image comes from; complete adds what is in it.
	complete(ctx context.Context, m *seal.Metadata) (*copied, error)
	// close gives up what prepare and copy made; it may be called again.
	close() error
}

// Save saves a running VM into a new image. On an error nothing is left at the image's path that was not there
// before, and the VM does what it did before. Where the image is whole and only Then failed, there are a result and an error.
func Save(ctx context.Context, o Options) (*Result, error) {
	if o.Began.IsZero() {
		o.Began = time.Now()
	}
	j := &job{o: o}
	if err := j.prepare(ctx); err != nil {
		j.close()
		return nil, image.Interrupted(ctx, err)
	}
	r, err := j.run(ctx)
	return r, j.explain(ctx, errors.Join(err, j.close()))
}

// RunAttendant has to be called first in the main of a program that calls Save. A save starts the program once more, as
// a small process that lets the VM go on should the program be killed (package attendant); in that process RunAttendant
// does that work and does not return. In others it does nothing that is seen. Without it Save returns an error.
func RunAttendant() { attendant.Main(qemu.Guardian, image.Publisher) }

// prepare does all that can fail before the guest is touched.
func (j *job) prepare(ctx context.Context) (err error) {
	params := transfer.Params{Channels: j.o.Channels, MaxBandwidth: j.o.MaxBandwidth}
	if err := params.Validate(); err != nil {
		return err
	}
	if j.o.Image, err = filepath.Abs(j.o.Image); err != nil {
		return err
	}
	if j.base, err = openBase(j.o.Base, j.o.Image, j.o.Calls, j.log); err != nil {
		return err
	}
	j.o.Progress.SetPhase("attaching")
	if j.target, err = image.NewTarget(j.o.Image, j.o.Force, j.o.Calls); err != nil {
		return err
	}
	if j.o.Confine {
		if err := j.target.StartPublisher(); err != nil {
			return err
		}
	}
	if j.vm, err = qemu.Attach(ctx, j.o.Socket, j.o.PID, j.o.Calls); err != nil {
		return err
	}
	j.pause = qemu.NewPause(j.vm)
	j.space = j.vm.WatchSpace()
	j.pause.MaxLength = j.o.MaxPause
	if err := j.pause.Claim(); err != nil {
		return err
	}
	if err := j.chooseIO(); err != nil {
		return err
	}
	if err := j.vm.Migratable(ctx); err != nil {
		return err
	}
	if err := j.chooseEngine(ctx); err != nil {
		return err
	}
	if err := j.base.check(j.o.Engine, j.vm); err != nil {
		return err
	}
	if err := j.watchDisks(ctx); err != nil {
		return err
	}
	j.log("%s engine, %s I/O: %s", j.o.Engine, j.io, j.io.Why)
	if err := j.pause.Guard(j.target.Files()...); err != nil {
		return err
	}
	if j.o.Confine {
		j.confiner = &confiner{pid: j.vm.PID, target: j.target, channels: j.channels(), direct: j.io.Direct, log: j.log}
	}
	j.confiner.attached()
	return nil
}

// chooseIO decides how pages reach the image; there may be as many as the VM has memory.
func (j *job) chooseIO() (err error) {
	c := directio.Chooser{Mode: j.o.Direct, Calls: j.o.Calls}
	for _, b := range j.vm.Blocks {
		c.Bytes += b.Used
	}
	j.io, err = c.Choose(j.target, os.O_WRONLY)
	return err
}

// chooseEngine makes the copier, and o.Engine the engine that it is.
func (j *job) chooseEngine(ctx context.Context) error {
	native := j.vm.NativeSupported(ctx)
	var no *qemu.Refusal
	if native != nil && !errors.As(native, &no) {
		return native
	}
	if j.o.Engine == EngineRamjet || j.o.Engine != EngineQEMU && native == nil {
		j.o.Engine = EngineRamjet
		if no != nil && !no.Unsavable {
			return fmt.Errorf("%w: use --engine=qemu", native)
		}
		j.copier = newNative(j)
		return native
	}
	if j.o.Engine != EngineQEMU {
		j.log("%v: QEMU does it", native)
	}
	j.o.Engine = EngineQEMU
	j.copier = newByQEMU(j)
	err := j.vm.QEMUSupported(ctx, j.o.Then == ThenQuit)
	if errors.As(err, &no) && native == nil {
		return fmt.Errorf("%w: use --engine=ramjet", err)
	}
	return err
}

// run is the save itself, from the first step that QEMU notices.
func (j *job) run(ctx context.Context) (*Result, error) {
	attached := time.Now()
	c, err := j.write(ctx)
	if err == nil {
		c.times.Attach = attached.Sub(j.o.Began).Seconds()
		err = j.publish(ctx, &c.times)
	}
	if err != nil {
		return nil, errors.Join(err, j.pause.End(ThenResume))
	}
	r := c.result(&j.o, j.base)
	r.PauseSeconds = j.pause.Length().Seconds()
	r.DurableSeconds = time.Since(j.o.Began).Seconds()
	if err := j.pause.End(j.o.Then); err != nil {
		return r, fmt.Errorf("the image is saved and whole, but %w", err)
	}
	return r, nil
}

// write makes the unfinished file an image. The guest stands still for a part of that, and after it only if it is not to resume.
func (j *job) write(ctx context.Context) (c *copied, err error) {
	defer func() { err = errors.Join(err, j.copier.close()) }()
	if err := j.copyPaused(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	m, differs := j.metadata()
	if c, err = j.copier.complete(ctx, m); err != nil {
		return nil, err
	}
	c.metadata, c.differs = m, differs
	c.times.Complete = time.Since(began).Seconds()
	if j.base == nil && c.nothing() {
		// Not even a machine that was never started has only zeros: it has firmware.
		return nil, errors.New("not one page of the VM's memory was stored: nothing was published; save again with --engine=ramjet")
	}
	return c, context.Cause(ctx) // asked to stop after the last byte: nothing is published
}

// copyPaused has the copier copy memory and device state, and the guest stand still for as long as that needs.
func (j *job) copyPaused(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, j.copier.release()) }()
	if err := j.copier.prepare(ctx); err != nil {
		return err
	}
	ctx, err = j.copier.hold(ctx)
	if err != nil {
		return err
	}
	if err := j.copier.copy(ctx); err != nil {
		return err
	}
	j.lookAtDisks()
	if err := j.pause.Check(ctx); err != nil || !j.resumes() {
		return err
	}
	return j.pause.End(ThenResume)
}

// publish makes the image durable and gives it its name, and notes how long each took.
func (j *job) publish(ctx context.Context, t *Times) error {
	j.o.Progress.SetPhase("making it durable")
	j.target.Commit = func() error {
		if err := context.Cause(ctx); err != nil || j.resumes() {
			return err
		}
		return j.pause.Check(ctx) // a VM that is to stay, or to end, has stood still up to here
	}
	began := time.Now()
	synced, err := j.target.Publish(j.io.Drop)
	t.Sync, t.Publish = synced.Seconds(), (time.Since(began) - synced).Seconds()
	j.published = err == nil
	return err
}

// resumes reports whether the VM is to go on after the save.
func (j *job) resumes() bool { return j.o.Then == ThenResume || j.o.Then == "" }

func (j *job) channels() int {
	if j.o.Channels == 0 {
		return transfer.DefaultChannels
	}
	return j.o.Channels
}

// close gives everything back, the VM first.
func (j *job) close() error {
	var err error
	if j.pause != nil {
		err = j.pause.Close()
	}
	if j.copier != nil {
		err = errors.Join(err, j.copier.close())
	}
	if j.target != nil {
		j.target.Discard()
	}
	if j.space != nil {
		j.resumeWithSpace()
	}
	if j.vm != nil {
		j.vm.Close()
	}
	for _, d := range j.disks {
		d.file.Close() // nil, too
	}
	j.base.close()
	return err
}
