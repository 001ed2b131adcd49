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
)

// CloneOptions are what Clone can be told. In the command's words {n} stands for a clone's number, from 0 on.
type CloneOptions struct {
	Options      // Socket is a directory, which gets 0.sock, 1.sock, ...
	N       int  // how many
	Overlay bool // give each clone an overlay of its own over every disk that is written, in the directory
}

// of returns the options of clone i: with its own monitor, and its number for the command's words.
func (c CloneOptions) of(i int) Options {
	o := c.Options
	o.Detach = true // none of them has the terminal
	o.Progress = nil
	o.number = strconv.Itoa(i)
	if i > 0 && o.Prefetch == PrefetchOn {
		o.Prefetch = PrefetchOff // the first one's is enough: they share the page cache
	}
	if c.Socket != "" {
		o.Socket = filepath.Join(c.Socket, o.number+".sock")
	}
	return o
}

// MaxClones bounds N.
const MaxClones = 10_000

// CloneResult is what `ramjet clone --json` prints.
type CloneResult struct {
	VMs     []ClonedVM `json:"vms"`
	Seconds float64    `json:"seconds"` // Began to the last one running
}

// ClonedVM is one of the clones. One that could not be started has an Error and no process.
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
	o     CloneOptions
	state *stateStream // the same for all clones
	made  []string     // directories that did not exist before, the innermost first
}

// Clone starts N VMs from one image, some at a time. Before the first starts it is checked that no two clones need the same port, file or
// socket. When some clones cannot be started the others keep running: the result comes with an error that says which failed and why.
func Clone(ctx context.Context, o CloneOptions) (*Clones, error) {
	o.Options = o.withDefaults()
	c := &clone{o: o}
	defer c.close()
	if err := c.prepare(ctx); err != nil {
		c.removeDirectory()
		return nil, err
	}
	vms := make([]*VM, o.N)
	errs := make([]error, o.N)
	all := &Clones{CloneResult: CloneResult{VMs: make([]ClonedVM, o.N)}}
	atATime(o.N, func(i int) {
		clone := &all.VMs[i]
		clone.N = i
		vms[i], clone.Overlays, errs[i] = c.start(ctx, i)
		switch {
		case vms[i] != nil:
			clone.Result = vms[i].Result
		case errs[i] != nil:
			clone.Error = errs[i].Error()
		}
	})
	all.vms = slices.DeleteFunc(vms, func(v *VM) bool { return v == nil })
	if len(all.vms) == 0 {
		c.removeDirectory()
	}
	all.Seconds = time.Since(o.Began).Seconds()
	return all, failures(errs)
}

// prepare checks all that can be checked before anything is started, and makes what the clones share.
func (c *clone) prepare(ctx context.Context) (err error) {
	if c.o.N < 1 || c.o.N > MaxClones {
		return fmt.Errorf("%d clones: give 1 to %d", c.o.N, MaxClones)
	}
	if c.o.Overlay && c.o.Socket == "" {
		return errors.New("--overlay puts the overlays into the directory of --qmp-dir: name one")
	}
	if c.o.Socket != "" {
		if c.o.Socket, err = filepath.Abs(c.o.Socket); err != nil {
			return err
		}
	}
	first, err := open(c.o.of(0))
	if err != nil {
		return err
	}
	defer first.close()
	if err := findClashes(c.o); err != nil {
		return err
	}
	if err := first.check(ctx); err != nil {
		return err
	}
	c.state, first.state = first.state, nil
	return c.makeDirectory()
}

// makeDirectory makes the directory for the clones' monitors, and notes what is to be removed again when no clone runs.
func (c *clone) makeDirectory() error {
	if c.o.Socket == "" {
		return nil
	}
	for dir := c.o.Socket; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		c.made = append(c.made, dir)
	}
	if err := os.MkdirAll(c.o.Socket, 0o700); err != nil {
		return fmt.Errorf("cannot make the directory for the clones' monitors: %w", err)
	}
	return nil
}

// removeDirectory removes what makeDirectory made, unless there is something in it.
func (c *clone) removeDirectory() {
	for _, dir := range c.made {
		if os.Remove(dir) != nil {
			return
		}
	}
}

// start starts clone i.
func (c *clone) start(ctx context.Context, i int) (_ *VM, overlays []string, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	r, err := open(c.o.of(i))
	if err != nil {
		return nil, nil, err
	}
	defer r.close()
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
	if c.o.Overlay {
		if overlays, err = makeOverlays(ctx, c.o.Socket, i, &r.launch); err != nil {
			return nil, overlays, err
		}
	}
	state := *c.state
	// A file description of its own: QEMU moves its position.
	if state.file, err = (directio.Reopen{File: c.state.file}).Open(os.O_RDONLY); err != nil {
		return nil, overlays, err
	}
	r.state = &state
	v, err := r.start(ctx, nil)
	return v, overlays, err
}

func (c *clone) close() {
	if c.state != nil {
		c.state.file.Close()
	}
}

// atATime calls do for the numbers below n, for as many at a time as there are processors: most of the time that a start takes QEMU
// computes.
func atATime(n int, do func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(n, max(2, runtime.NumCPU())) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range next {
				do(i)
			}
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// failures makes one error of those of the clones, by number: which clones failed, those with the same error together, and how many
// did not.
func failures(errs []error) error {
	var said []error
	numbers := map[string][]string{} // of clones, by their error
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
