// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Engine says who moves the memory.
type Engine string

// EngineAuto is EngineRamjet unless that would not save the VM right; EngineQEMU has QEMU write the file itself.
const (
	EngineAuto   Engine = "auto"
	EngineRamjet Engine = "ramjet"
	EngineQEMU   Engine = "qemu"
)

// Then says what becomes of the VM after the save.
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

	Progress *image.Progress // optional
	Log      func(s string)  // optional: what is decided, for people
}

// Result is what `ramjet save --json` prints. Times are in seconds, sizes in bytes.
type Result struct {
	Image          string  `json:"image"`
	ID             string  `json:"id"`
	Engine         Engine  `json:"engine"`
	IO             string  `json:"io"`     // direct or buffered
	IOWhy          string  `json:"io_why"` // half a sentence, for people
	Channels       int     `json:"channels"`
	PagesTotal     int64   `json:"pages_total"`
	PagesStored    int64   `json:"pages_stored"`
	PagesZero      int64   `json:"pages_zero"` // zero, or never touched; in a diff those that are so and are not in the base
	BytesStored    int64   `json:"bytes_stored"`
	BytesLogical   int64   `json:"bytes_logical"`
	PauseSeconds   float64 `json:"pause_seconds"`   // from stop to cont; 0 if the VM was paused before
	SaveSeconds    float64 `json:"save_seconds"`    // start to the last byte handed to the kernel
	DurableSeconds float64 `json:"durable_seconds"` // start to published
	BytesPerSecond float64 `json:"bytes_per_second"`
	Passes         []Pass  `json:"passes,omitempty"`  // while the guest ran, with Live
	GaveUp         bool    `json:"gave_up,omitempty"` // with Live: the guest was faster, and much was left for the pause
	// NotRestorable says why Ramjet cannot restore the image, which QEMU can load; empty if it can.
	NotRestorable string  `json:"not_restorable,omitempty"`
	Base          *string `json:"base"` // the image that a diff builds on
	// Differs says what of the VM is not as its command line says: disks, devices. Half a sentence each.
	Differs []string `json:"differs"`
	// Times says where DurableSeconds went.
	Times Times `json:"times"`
}

// save is one Save under way.
type save struct {
	Options
	vm     *qemu.VM
	base   *image.File // nil: the image will be whole
	target *image.Target
	io     directio.Decision
	pause  *qemu.Pause
	disks  []watchedDisk
	spare  *os.File         // see takeScratch
	slept  *qemu.SleepWatch // with EngineQEMU
	space  *qemu.SpaceWatch
	result *Result

	plugged json.RawMessage // where plugged memory is, as the seal says it; nil if there is none
}

// Save saves a running VM into a new image. On an error nothing is left at the image's path that was not there
// before, and the VM does what it did before.
func Save(ctx context.Context, o Options) (*Result, error) {
	if o.Began.IsZero() {
		o.Began = time.Now()
	}
	s := &save{Options: o}
	if err := s.prepare(ctx); err != nil {
		s.Close()
		return nil, image.Interrupted(ctx, err)
	}
	err := s.run(ctx)
	return s.result, s.explain(ctx, errors.Join(err, s.Close()))
}

// explain says the one thing that matters where everything fails because there is no QEMU any more, or no connection to it, and
// what can be done about a full disk.
func (s *save) explain(ctx context.Context, err error) error {
	published := s.result.DurableSeconds > 0
	spoilt := s.pause.Spoilt()
	switch {
	case err == nil || published:
		return err
	case errors.Is(spoilt, qemu.ErrFrozen):
		return spoilt
	case s.vm.Gone():
		return fmt.Errorf("QEMU, process %d, has ended during the save: nothing was saved", s.vm.PID)
	case errors.Is(err, qmp.ErrClosed):
		return fmt.Errorf("the VM's monitor was lost during the save, nothing was saved: %w", first(err))
	case s.pause.State() == qemu.Lost:
		return fmt.Errorf("QEMU, process %d, does not answer; it will find the order to let the VM go on when it does. Nothing was saved: %w", s.vm.PID, first(err))
	case spoilt != nil && ctx.Err() == nil:
		return spoilt
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		s.log("%v", err)
		return image.DiskFull(err, s.Image)
	}
	return image.Interrupted(ctx, err)
}

// first is the one error that led to the others it was joined with.
func first(err error) error {
	for {
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || !strings.Contains(err.Error(), "\n") {
			return err
		}
		err = joined.Unwrap()[0]
	}
}

// prepare does all that can fail before the guest is touched.
func (s *save) prepare(ctx context.Context) (err error) {
	params := transfer.Params{Channels: s.Channels, MaxBandwidth: s.MaxBandwidth}
	if err := params.Validate(); err != nil {
		return err
	}
	if s.Image, err = filepath.Abs(s.Image); err != nil {
		return err
	}
	if err := s.openBase(); err != nil {
		return err
	}
	s.Progress.SetPhase("attaching")
	if s.target, err = image.NewTarget(s.Image, s.Force); err != nil {
		return err
	}
	if s.Confine {
		if err := s.target.StartPublisher(); err != nil {
			return err
		}
	}
	if s.vm, err = qemu.Attach(ctx, s.Socket, s.PID); err != nil {
		return err
	}
	s.pause = qemu.NewPause(s.vm)
	s.space = s.vm.WatchSpace()
	s.pause.MaxLength = s.MaxPause
	if err := s.pause.Claim(); err != nil {
		return err
	}
	if err := s.chooseIO(); err != nil {
		return err
	}
	if err := s.vm.Migratable(ctx); err != nil {
		return err
	}
	if err := s.chooseEngine(ctx); err != nil {
		return err
	}
	if err := s.checkBase(); err != nil {
		return err
	}
	if err := s.watchDisks(ctx); err != nil {
		return err
	}
	s.log("%s engine, %s I/O: %s", s.Engine, s.io, s.io.Why)
	if err := s.pause.Guard(s.target.Files()...); err != nil {
		return err
	}
	s.confineCalls()
	return nil
}

// chooseIO decides how pages reach the image; there may be as many as the VM has memory.
func (s *save) chooseIO() (err error) {
	c := directio.Chooser{Mode: s.Direct}
	for _, b := range s.vm.Blocks {
		c.Bytes += b.Used
	}
	s.io, err = c.Choose(s.target, os.O_WRONLY)
	return err
}

func (s *save) chooseEngine(ctx context.Context) error {
	native := s.vm.NativeSupported(ctx)
	var no *qemu.Refusal
	if native != nil && !errors.As(native, &no) {
		return native
	}
	if s.Engine == EngineRamjet || s.Engine != EngineQEMU && native == nil {
		s.Engine = EngineRamjet
		if no != nil && !no.Unsavable {
			return fmt.Errorf("%w: use --engine=qemu", native)
		}
		return native
	}
	if s.Engine != EngineQEMU {
		s.log("%v: QEMU does it", native)
	}
	s.Engine = EngineQEMU
	// The guest may go to sleep from now on.
	s.slept = s.vm.WatchSleep()
	err := s.vm.QEMUSupported(ctx, s.Then == ThenQuit)
	if errors.As(err, &no) && native == nil {
		return fmt.Errorf("%w: use --engine=ramjet", err)
	}
	return err
}

func (s *save) run(ctx context.Context) error {
	s.result = &Result{Image: s.Image, Engine: s.Engine, IO: s.io.String(), IOWhy: s.io.Why, Channels: s.channels(), Differs: []string{}}
	s.result.Times.Attach = time.Since(s.Began).Seconds()
	work := s.native
	if s.Engine == EngineQEMU {
		work = s.byQEMU
	}
	id, err := work(ctx)
	if err == nil {
		err = context.Cause(ctx) // asked to stop after the last byte: nothing is published
	}
	if err == nil && s.base == nil && s.result.PagesStored == 0 {
		// Not even a machine that was never started has only zeros: it has firmware.
		err = errors.New("not one page of the VM's memory was stored: nothing was published; save again with --engine=ramjet")
	}
	if err != nil {
		return errors.Join(err, s.pause.End(ThenResume))
	}
	s.divide()
	s.Progress.SetPhase("making it durable")
	s.target.Commit = func() error { return s.commit(ctx) }
	began := time.Now()
	synced, err := s.target.Publish(s.io.Drop)
	s.result.Times.Sync, s.result.Times.Publish = synced.Seconds(), (time.Since(began) - synced).Seconds()
	if err != nil {
		return errors.Join(err, s.pause.End(ThenResume))
	}
	s.result.ID = id.String()
	s.finish()
	if err := s.pause.End(s.Then); err != nil {
		return fmt.Errorf("the image is saved and whole, but %w", err)
	}
	return nil
}

// resumes says that the VM is to go on after the save.
func (s *save) resumes() bool { return s.Then == ThenResume || s.Then == "" }

// commit is asked before the image gets its name. A VM that is to stay, or to end, has stood still up to here.
func (s *save) commit(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil || s.resumes() {
		return err
	}
	return s.pause.Check(ctx)
}

func (s *save) channels() int {
	if s.Channels == 0 {
		return transfer.DefaultChannels
	}
	return s.Channels
}

// divide says of QEMU's own engine's time what is known of it.
func (s *save) divide() {
	if s.Engine == EngineQEMU {
		s.result.Times.Memory = s.result.SaveSeconds - s.result.Times.Attach
		s.result.Times.Complete = time.Since(s.Began).Seconds() - s.result.SaveSeconds
	}
}

// count puts what the image holds into the result.
func (s *save) count(blocks []seal.Block) {
	r := s.result
	for _, b := range blocks {
		r.PagesTotal += b.Length / b.PageSize
		r.PagesStored += b.PagesStored
		r.BytesStored += b.PagesStored * b.PageSize
		r.BytesLogical += b.Length
	}
}

func (s *save) finish() {
	r := s.result
	if s.base == nil {
		r.PagesZero = r.PagesTotal - r.PagesStored
	} else {
		r.Base = &s.base.Path
	}
	r.PauseSeconds = s.pause.Length().Seconds()
	r.DurableSeconds = time.Since(s.Began).Seconds()
	if r.SaveSeconds > 0 {
		r.BytesPerSecond = float64(r.BytesStored) / r.SaveSeconds
	}
}

// wasLive tells whether the VM went on by itself when it was stopped. One whose guest sleeps (S3) does.
func (s *save) wasLive() bool {
	state := s.pause.ImageState()
	return state == "running" || state == "suspended"
}

// metadata is what the seal says of where the image came from.
func (s *save) metadata() *seal.Metadata {
	m := &seal.Metadata{
		Created:       time.Now().UTC(),
		RamjetVersion: image.VersionString(),
		QEMUVersion:   s.vm.Version(),
		MachineType:   s.vm.MachineType,
		WasRunning:    s.wasLive(),
	}
	if !s.NoCommandLine {
		c := s.vm.CommandLine
		m.CommandLine, m.Cwd, m.Executable, m.CommandLineUser = cmdline.WithoutSecrets(c.Args), c.Dir, c.Executable, c.User
		if unknown := c.Unknown(); unknown != "" {
			s.log("to restore it, its command line will be needed: %s", unknown)
		}
		for _, b := range cmdline.Blanked(m.CommandLine) {
			s.log("recorded without its secret: %s", b)
		}
	}
	s.recordDisks(m)
	m.MemoryDevices = s.plugged
	return m
}

func (s *save) log(format string, args ...any) {
	if s.Log != nil {
		s.Log(fmt.Sprintf(format, args...))
	}
}

// resumeWithSpace lets a VM go on that has stopped for lack of room in its disk's file system since the save began: the unfinished
// file is gone, and the room that was reserved for it given back.
func (s *save) resumeWithSpace() {
	if s.result != nil && s.result.DurableSeconds > 0 && !s.resumes() {
		return // saved, and to stay as it is
	}
	ctx, cancel := context.WithTimeout(context.Background(), qemu.CleanupTimeout)
	defer cancel()
	switch resumed, err := s.space.Resume(ctx); {
	case resumed && err != nil:
		s.log("the VM stopped because there was no room for its disk, and does not go on (send it \"cont\"): %v", err)
	case resumed:
		s.log("the VM stopped because there was no room for its disk; it goes on now")
	}
}

// Close gives everything back, the VM first.
func (s *save) Close() error {
	var err error
	if s.pause != nil {
		err = s.pause.Close()
	}
	s.slept.Close() // nil too
	if s.target != nil {
		s.target.Discard()
	}
	if s.space != nil {
		s.resumeWithSpace()
	}
	if s.vm != nil {
		s.vm.Close()
	}
	s.spare.Close() // nil too
	s.closeDisks()
	if s.base != nil {
		s.base.Close()
	}
	return err
}
