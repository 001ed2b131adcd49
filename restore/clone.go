// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// CloneOptions are what Clone can be told. In the command's words {n} stands for a clone's number, from 0 on.
type CloneOptions struct {
	Options      // Socket is a directory, which gets 0.sock, 1.sock, ...
	N       int  // how many
	Overlay bool // give each clone an overlay of its own over every disk that is written, in the directory
}

// MaxClones bounds N.
const MaxClones = 10_000

// CloneResult is what `ramjet clone --json` prints.
type CloneResult struct {
	VMs     []ClonedVM `json:"vms"`
	Seconds float64    `json:"seconds"` // Began to the last one running
}

// ClonedVM is one of them. One that could not be started has an Error and no process.
type ClonedVM struct {
	N int `json:"n"`
	Result
	Overlays []string `json:"overlays,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// Clones are VMs from one image.
type Clones struct {
	CloneResult
	vms []*VM
}

// Wait returns when all have ended: the exit status of the first, by number, that was not 0, else 0.
func (c *Clones) Wait() int {
	status := 0
	for _, v := range c.vms {
		status = cmp.Or(status, v.Wait())
	}
	return status
}

// Signal passes a signal on to all.
func (c *Clones) Signal(s os.Signal) {
	for _, v := range c.vms {
		v.Signal(s)
	}
}

// clone is one Clone under way.
type clone struct {
	CloneOptions
	state *os.File // the state stream, the same for all
	ran   bool     // the saved VM did
	made  []string // directories, the innermost first
}

// Clone starts N VMs from one image, some at a time. Before the first starts it is checked that no two would get in each
// other's way. When some cannot be started the others are left as they are: there is a result beside the
// error, which says which and why.
func Clone(ctx context.Context, o CloneOptions) (*Clones, error) {
	if o.Began.IsZero() {
		o.Began = time.Now()
	}
	c := &clone{CloneOptions: o}
	defer c.Close()
	if err := c.prepare(ctx); err != nil {
		c.removeDirectory()
		return nil, err
	}
	all := &Clones{CloneResult: CloneResult{VMs: make([]ClonedVM, c.N)}}
	vms := make([]*VM, c.N)
	errs := make([]error, c.N)
	c.each(func(i int) {
		r := &all.VMs[i]
		vms[i], r.Overlays, errs[i] = c.start(ctx, i)
		r.N = i
		if vms[i] != nil {
			r.Result = vms[i].Result
		}
	})
	for i, v := range vms {
		if v != nil {
			all.vms = append(all.vms, v)
		}
		if errs[i] != nil {
			all.VMs[i].Error = errs[i].Error()
		}
	}
	if len(all.vms) == 0 {
		c.removeDirectory()
	}
	all.Seconds = time.Since(c.Began).Seconds()
	return all, failures(errs)
}

// failures says in one error which clones failed, those that failed alike together, and how many did not.
func failures(errs []error) error {
	var said []error
	numbers := map[string][]string{} // of clones, by what is wrong with them
	good := 0
	for i, err := range errs {
		if err == nil {
			good++
			continue
		}
		if numbers[err.Error()] == nil {
			said = append(said, err)
		}
		numbers[err.Error()] = append(numbers[err.Error()], strconv.Itoa(i))
	}
	for k, err := range said {
		n := numbers[err.Error()]
		if len(n) > 8 {
			n = append(n[:7:7], fmt.Sprintf("%d more", len(n)-7))
		}
		said[k] = fmt.Errorf("clone %s: %w", strings.Join(n, ", "), err)
	}
	if len(said) > 0 && good > 0 {
		said = append(said, fmt.Errorf("the other %d run", good))
	}
	return errors.Join(said...)
}

// each calls do for all numbers, as many at a time as there are processors: what a start costs is
// mostly QEMU's own setting up.
func (c *clone) each(do func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(c.N, max(2, runtime.NumCPU())) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range next {
				do(i)
			}
		}()
	}
	for i := range c.N {
		next <- i
	}
	close(next)
	wg.Wait()
}

// prepare checks all that can be checked before anything is started, and makes what the clones share.
func (c *clone) prepare(ctx context.Context) (err error) {
	if c.N < 1 || c.N > MaxClones {
		return fmt.Errorf("%d clones: give 1 to %d", c.N, MaxClones)
	}
	if c.Overlay && c.Socket == "" {
		return errors.New("--overlay puts the overlays into the directory of --qmp-dir: name one")
	}
	if c.Socket != "" {
		if c.Socket, err = filepath.Abs(c.Socket); err != nil {
			return err
		}
	}
	first, err := openRestore(c.options(0))
	if err != nil {
		return err
	}
	defer first.Close()
	if err := c.clashes(); err != nil {
		return err
	}
	if err := first.verify(ctx); err != nil {
		return err
	}
	state, err := first.openState(ctx)
	if err != nil {
		return err
	}
	c.state, c.ran = state.file, state.wasRunning
	return c.makeDirectory()
}

// makeDirectory makes the directory for the clones' monitors, and notes what is to be removed again when no clone runs.
func (c *clone) makeDirectory() error {
	if c.Socket == "" {
		return nil
	}
	for dir := c.Socket; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		c.made = append(c.made, dir)
	}
	if err := os.MkdirAll(c.Socket, 0o700); err != nil {
		return fmt.Errorf("cannot make the directory for the clones' monitors: %w", err)
	}
	return nil
}

// removeDirectory removes what makeDirectory made, as far as nothing is in it.
func (c *clone) removeDirectory() {
	for _, dir := range c.made {
		if os.Remove(dir) != nil {
			return
		}
	}
}

// options are those of clone i: its own monitor, its number in the command's words.
func (c *clone) options(i int) Options {
	o := c.Options
	o.Detach = true // none of them has the terminal
	o.Progress = nil
	o.number = strconv.Itoa(i)
	if i > 0 && o.Prefetch == PrefetchOn {
		o.Prefetch = PrefetchOff // one for all: they share the page cache
	}
	if c.Socket != "" {
		o.Socket = filepath.Join(c.Socket, o.number+".sock")
	}
	return o
}

// start starts clone i.
func (c *clone) start(ctx context.Context, i int) (_ *VM, overlays []string, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	r, err := openRestore(c.options(i))
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	if err := r.launch.CheckFree(); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			for _, o := range overlays {
				os.Remove(o)
			}
			overlays = nil
		}
	}()
	if c.Overlay {
		if overlays, err = c.overlays(ctx, r, i); err != nil {
			return nil, overlays, err
		}
	}
	// A description of its own: QEMU moves its position.
	state, err := directio.Reopen{File: c.state}.Open(os.O_RDONLY)
	if err != nil {
		return nil, overlays, err
	}
	r.state = &stateStream{file: state, wasRunning: c.ran}
	v, err := r.start(ctx, nil)
	return v, overlays, err
}

// overlay is where clone i's overlay over a disk goes.
func (c *clone) overlay(i int, d cmdline.Disk) string {
	clean := func(r rune) rune {
		if strings.ContainsRune("/,: ", r) {
			return '-'
		}
		return r
	}
	return filepath.Join(c.Socket, fmt.Sprintf("%d-%s.qcow2", i, strings.Map(clean, d.Name)))
}

// overlays makes them for clone i, and puts them into its command line: into that which is run, and into that which a later save of the
// clone records, so that nothing is ever restored over the disk below.
func (c *clone) overlays(ctx context.Context, r *restore, i int) (made []string, err error) {
	for _, d := range overlayable(cmdline.ParseArgs(r.launch.Args)) {
		path := c.overlay(i, d)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return made, fmt.Errorf("%s exists already: it may be in use; choose another directory, or remove it", path)
		}
		if err := r.launch.MakeOverlay(ctx, d, path); err != nil {
			return made, err
		}
		made = append(made, path)
	}
	if r.launch.Given, err = overlaid(r.launch.Given, made); err != nil {
		return made, err
	}
	r.launch.Args, err = overlaid(r.launch.Args, made)
	return made, err
}

// overlaid is a command line with overlays over the disks that are written, in their order.
func overlaid(words, overlays []string) ([]string, error) {
	args := cmdline.ParseArgs(words)
	for i, d := range overlayable(args) {
		var err error
		if args, err = args.WithOverlay(d, overlays[i]); err != nil {
			return nil, err
		}
	}
	return args.Words(), nil
}

// overlayable are the disks that are written and that overlays can come over.
func overlayable(args cmdline.Args) []cmdline.Disk {
	return slices.DeleteFunc(args.Disks(), func(d cmdline.Disk) bool { return d.ReadOnly || d.Fixed })
}

func (c *clone) Close() {
	if c.state != nil {
		c.state.Close()
	}
}
