// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Mode says how memory comes back.
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
	Set      []string // what to change in them; see qemu.Args.Set
	Socket   string   // where the new VM's monitor listens; where the arguments say if empty
	Paused   bool     // load, do not run
	Detach   bool     // the VM outlives this process and has no terminal
	Channels int
	Direct   directio.Mode
	Verify   bool      // Check every page before the VM runs; Eager does that anyway
	Scrub    bool      // make VM.Scrub possible
	Prefetch Prefetch  // Instant: bring pages in behind the guest; PrefetchOn if empty
	Began    time.Time // when the user began to wait; now if zero

	Progress *image.Progress
	Log      func(string)
	Warn     func(string) // optional: what the user should know before the guest runs

	number string // a clone's, which {n} in Command stands for
}

// Result is what `ramjet restore --detach --json` prints. Times are in seconds.
type Result struct {
	PID            int     `json:"pid"`
	QMP            string  `json:"qmp"`
	Mode           Mode    `json:"mode"`
	Status         string  `json:"status"`          // QEMU's name of the state that the VM is in after the load: running, paused, suspended ...
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
	Options
	image   *image.Image
	kept    *image.File // of these the one that the VM closes
	launch  qemu.Launch
	io      directio.Decision // how memory was read, with Eager
	outside map[string]bool   // the blocks that do not come by the state stream
	state   *stateStream
}

// Restore starts a VM from an image. On an error there is no VM, and the image is as it was.
func Restore(ctx context.Context, o Options) (*VM, error) {
	r, err := openRestore(o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.launch.CheckFree(); err != nil {
		return nil, err
	}
	vm, err := r.start(ctx, r.Check)
	return vm, image.Interrupted(ctx, err)
}

// Check checks the image, and takes from it what QEMU loads by itself.
func (r *restore) Check(ctx context.Context) (err error) {
	if err := r.verify(ctx); err != nil {
		return err
	}
	r.state, err = r.openState(ctx)
	return err
}

// start starts a VM from an image that check, if it is not nil, finds right. That is looked at while QEMU starts, which
// changes nothing outside itself before it runs the guest. The command line that it has is right in any case: the seal's
// metadata, where it comes from, has a sum of its own.
func (r *restore) start(ctx context.Context, check func(context.Context) error) (*VM, error) {
	f := r.fill(ctx, check)
	v, err := r.launchQEMU(f.ctx, f)
	return v, f.end(err)
}

// launchQEMU starts QEMU and brings the image in: memory that is to be filled by f, all else by the state stream.
func (r *restore) launchQEMU(ctx context.Context, f *filling) (*VM, error) {
	r.Progress.SetPhase("starting QEMU")
	in, err := r.launch.Start(ctx)
	if err != nil {
		return nil, err
	}
	greeted := time.Now()
	if err := r.load(ctx, in, f); err != nil {
		return nil, errors.Join(err, in.Kill())
	}
	v := &VM{incoming: in, Result: Result{
		PID: in.PID, QMP: r.launch.FinalArgs().Monitor(r.launch.Dir), Mode: r.Mode,
		RunningSeconds: time.Since(r.Began).Seconds(), LoadSeconds: time.Since(greeted).Seconds(),
	}}
	if r.io.Why != "" {
		v.IO, v.IOWhy = r.io.String(), r.io.Why
	}
	if v.Status, err = r.status(ctx, in); err != nil {
		return nil, errors.Join(err, in.Kill())
	}
	in.Release()
	r.prefetchBehind(ctx, v)
	if r.Scrub {
		if v.image = r.image.File; r.image.Base != nil {
			v.image = r.image.Base // a diff was read and checked; the base is what the VM runs from
		}
		r.kept = v.image
	}
	return v, nil
}

func openRestore(o Options) (*restore, error) {
	if o.Began.IsZero() {
		o.Began = time.Now()
	}
	if o.Mode == "" {
		o.Mode = Instant
	}
	r := &restore{Options: o, outside: map[string]bool{}}
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// open opens the files and settles the command line.
func (r *restore) open() (err error) {
	if r.image, err = image.Open(r.Image, r.Base); err != nil {
		return err
	}
	if why := image.NotRestorable(r.image.Config); why != "" {
		return fmt.Errorf("%s %s", r.Image, why)
	}
	if err := r.commandLine(); err != nil {
		return err
	}
	if err := r.settleArguments(); err != nil {
		return err
	}
	r.launch.Detach = r.Detach
	if r.Socket != "" {
		if r.launch.Socket, err = filepath.Abs(r.Socket); err != nil {
			return err
		}
	}
	return r.placeMemory()
}

// commandLine takes the words after "--", or the recorded ones.
func (r *restore) commandLine() (err error) {
	recorded := r.image.Seal != nil && len(r.image.Seal.CommandLine) > 0
	wrapper, program, words := cmdline.SplitCommand(r.Command)
	r.launch.Wrapper = r.numbered(wrapper)
	switch {
	case len(wrapper) > 0:
		r.launch.Executable = program // which the wrapper may look for elsewhere
	case program != "":
		r.launch.Executable, err = qemu.FindExecutable(program)
	default:
		r.launch.Executable, err = r.recordedProgram()
	}
	if err != nil {
		return err
	}
	if r.Command != nil {
		return r.useArguments(words)
	}
	if !recorded {
		return fmt.Errorf("%s does not say how its VM was started: give QEMU's arguments after --", r.Image)
	}
	if err := trusted(r.image.File); err != nil {
		return err
	}
	if err := sameAsRecorded(r.image.File); err != nil {
		return err
	}
	m := r.image.Seal
	if err := r.useArguments(m.CommandLine); err != nil {
		return err
	}
	if blanked := cmdline.Blanked(r.launch.Args); len(blanked) > 0 {
		return fmt.Errorf("the command line recorded in %s is without its secrets, which are never saved: make %s complete with --set, or give the command line after -- (ramjet inspect shows it)",
			r.Image, strings.Join(blanked, " and "))
	}
	if err := knownDirectory(r.launch.Args, m.Cwd); err != nil {
		return err
	}
	r.launch.Dir = m.Cwd
	return checkDirectory(r.Image, m.Cwd)
}

// checkDirectory refuses a recorded command line whose relative paths would be looked for elsewhere.
func checkDirectory(image, dir string) error {
	if dir == "" {
		return nil
	}
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	return fmt.Errorf("the command line recorded in %s is to be run in the directory %s, which is not there any more: go to the directory of the VM's files and give QEMU's arguments after -- (ramjet inspect shows them)",
		image, dir)
}

// useArguments takes QEMU's arguments, changed as the user wants it.
func (r *restore) useArguments(words []string) error {
	args, err := cmdline.ParseArgs(words).Set(r.Set...)
	r.launch.Args = r.numbered(args.Words())
	return err
}

// numbered puts a clone's number in.
func (r *restore) numbered(words []string) []string {
	if r.number == "" {
		return words
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = strings.ReplaceAll(w, "{n}", r.number)
	}
	return out
}

// placeMemory decides which blocks come from the image, not through the state stream, and for instant mode changes
// the command line so that they are mapped.
func (r *restore) placeMemory() error {
	args := cmdline.ParseArgs(r.launch.Args)
	r.launch.Given = r.launch.Args
	var mapped []cmdline.MappedBlock
	for i, b := range r.image.Blocks {
		if !args.Mappable(b.Name) || b.PagesOffset == 0 {
			continue
		}
		err := args.CheckMemorySize(b.Name, b.Length)
		if err == nil && r.Mode == Eager {
			err = args.CheckWritable(b.Name)
		}
		if err != nil {
			return err
		}
		r.outside[b.Name] = true
		file := 0
		if r.image.FromBase(i) {
			file, b = 1, r.image.Base.Blocks[r.image.Base.Index(b.Name)]
		}
		mapped = append(mapped, cmdline.MappedBlock{Name: b.Name, Size: b.Length, Offset: b.PagesOffset, Path: inherited(file)})
	}
	if r.Mode == Eager {
		return nil
	}
	changed, err := args.MapBlocks(mapped)
	if err != nil {
		// What the error advises is to write into memory that somebody may have.
		return cmp.Or(r.launch.CheckFree(), err)
	}
	r.launch.Args = changed.Words()
	r.launch.Files = []*os.File{r.image.F}
	if r.image.Base != nil {
		r.launch.Files = append(r.launch.Files, r.image.Base.F)
	}
	return nil
}

// inherited is the path of one of the launch's files within QEMU.
func inherited(file int) string { return fmt.Sprintf("/proc/self/fd/%d", qemu.FirstFile+file) }

// load brings memory and devices into a QEMU that waits, and lets it run.
func (r *restore) load(ctx context.Context, in *qemu.Incoming, f *filling) error {
	blocks, err := qemu.QueryRAMBlocks(ctx, in.QMP)
	if err != nil {
		return err
	}
	if err := r.compare(blocks); err != nil {
		return err
	}
	if err := r.compareDisks(ctx, in); err != nil {
		return err
	}
	if err := f.Check(); err != nil {
		return err
	}
	if err := r.compareProcessors(ctx, in); err != nil {
		return err
	}
	loading, err := in.Offer(ctx, r.state.file)
	if err != nil {
		return err
	}
	if err := f.into(in, blocks); err != nil {
		return err
	}
	r.Progress.SetPhase("loading device state")
	if err := loading.Load(ctx); err != nil {
		return err
	}
	if r.Paused || !r.state.wasRunning {
		return nil
	}
	if err := in.Cont(ctx); err != nil {
		return fmt.Errorf("the VM is loaded but does not run: %w", err)
	}
	return nil
}

// status is the state that the loaded VM is in. One that was let go on and whose guest is awake runs; it is not asked, since QEMU
// is slow to answer while its guest begins.
func (r *restore) status(ctx context.Context, in *qemu.Incoming) (string, error) {
	if !r.Paused && r.state.wasRunning && !r.state.asleep {
		return "running", nil
	}
	return in.Status(ctx)
}

func (r *restore) Close() {
	if r.image != nil {
		for _, image := range []*image.File{r.image.File, r.image.Base} {
			if image != nil && image != r.kept {
				image.F.Close()
			}
		}
	}
	if r.state != nil {
		r.state.file.Close()
	}
}

// wasRunning tells whether the VM is to go on after the load: whether it did when it was saved. One whose guest slept sleeps on.
func wasRunning(sections []byte) bool {
	s, err := vmstate.RunState(sections)
	return err != nil || s == "running" || s == "suspended"
}
