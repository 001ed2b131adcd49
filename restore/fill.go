// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/transfer"
)

// filling checks an image and, with Eager, reads the blocks that are outside the state stream into the memory of a QEMU. It begins
// before there is one: while QEMU starts, the image is checked and the channels' buffers are filled.
type filling struct {
	restore *restore
	ctx     context.Context // of all that is done for this restore: a filling that fails ends it
	cancel  context.CancelCauseFunc
	memory  map[int]*awaited // by block of the image
	there   chan struct{}    // closed when there is memory
	checked chan struct{}    // closed when the check is over
	done    chan struct{}    // closed when all is over
	err     error            // valid when done
	own     error            // err, if it came before ctx ended for another reason
}

// fill starts a filling with its check, if that is not nil.
func (r *restore) fill(ctx context.Context, check func(context.Context) error) *filling {
	f := &filling{restore: r, memory: map[int]*awaited{}, there: make(chan struct{}), checked: make(chan struct{}), done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	for i, b := range r.image.Blocks {
		if r.Mode == Eager && r.outside[b.Name] {
			f.memory[i] = &awaited{size: b.Length, ctx: f.ctx, there: f.there}
		}
	}
	go func() {
		defer close(f.done)
		if check != nil {
			f.settle(check(f.ctx))
		}
		close(f.checked)
		if f.err == nil && len(f.memory) > 0 {
			f.settle(f.run())
		}
	}()
	return f
}

// settle takes the result of a step. An error ends everything.
func (f *filling) settle(err error) {
	if f.err = err; err == nil {
		return
	}
	if f.ctx.Err() == nil {
		f.own = err
	}
	f.cancel(err)
}

// run reads the base, if there is one, and what the image has on top of it.
func (f *filling) run() error {
	if f.restore.image.Base != nil {
		if err := f.restore.fillFrom(f.ctx, f.restore.image.Base, f.memory); err != nil {
			return err
		}
	}
	return f.restore.fillFrom(f.ctx, f.restore.image.File, f.memory)
}

// Check returns when the image is checked, and why nothing is to be loaded from it if that is so.
func (f *filling) Check() error {
	<-f.checked
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	return nil
}

// into lets the filling have the memory of a QEMU with these blocks, and returns when it is full.
func (f *filling) into(in *qemu.Incoming, blocks []qemu.RAMBlock) (err error) {
	var opened []guestmem.Memory
	defer func() {
		for _, m := range opened {
			err = errors.Join(err, m.Close())
		}
	}()
	for _, q := range blocks {
		a := f.memory[f.restore.image.Index(q.Name)]
		if a == nil {
			continue
		}
		if a.Memory, err = in.OpenMemory(q, guestmem.ReadWrite); err != nil {
			return err
		}
		opened = append(opened, a.Memory)
	}
	if len(opened) > 0 {
		f.restore.Progress.SetPhase("loading memory")
	}
	close(f.there)
	<-f.done
	return f.err
}

// end ends a filling whose QEMU was started or, for err, was not, and returns what was wrong first. What is wrong with the image
// goes before all else.
func (f *filling) end(err error) error {
	<-f.checked
	f.cancel(err)
	<-f.done
	if f.own != nil {
		return f.own
	}
	return err
}

// awaited is the memory of a block that is not there yet: all but its size waits for it.
type awaited struct {
	guestmem.Memory // valid when there
	size            int64
	ctx             context.Context
	there           <-chan struct{}
}

func (a *awaited) wait() error {
	select {
	case <-a.there:
		return nil
	case <-a.ctx.Done():
		return context.Cause(a.ctx)
	}
}

func (a *awaited) Size() int64 { return a.size }

func (a *awaited) Populated(within guestmem.Range) iter.Seq2[guestmem.Range, error] {
	if err := a.wait(); err != nil {
		return func(yield func(guestmem.Range, error) bool) { yield(guestmem.Range{}, err) }
	}
	return a.Memory.Populated(within)
}

func (a *awaited) Read(p []byte, off int64) error {
	if err := a.wait(); err != nil {
		return err
	}
	return a.Memory.Read(p, off)
}

func (a *awaited) Write(p []byte, off int64) error {
	if err := a.wait(); err != nil {
		return err
	}
	return a.Memory.Write(p, off)
}

// fillFrom reads what comes from one of the image and its base.
func (r *restore) fillFrom(ctx context.Context, img *image.File, memory map[int]*awaited) error {
	l := &transfer.Load{Image: directio.Reopen{File: img.F}}
	check := &image.PageCheck{Image: img.Image, Bad: image.RefuseBad}
	if img.Seal != nil {
		l.Check = check.Check
	}
	for i := range r.image.Blocks {
		if memory[i] == nil {
			continue
		}
		sources, err := r.image.Sources(i)
		if err != nil {
			return err
		}
		for k, s := range sources {
			if s.Image == img {
				part := s.Part(check)
				part.Memory = memory[i]
				part.Clear = k == 0 // the others come on top
				l.Blocks = append(l.Blocks, part)
			}
		}
	}
	io, err := directio.Choose(r.Direct, l.Image, os.O_RDONLY)
	if err != nil {
		return err
	}
	l.Params = transfer.Params{Channels: r.Channels, Direct: io.Direct, Cached: io.Cached}
	if img == r.image.File || r.io.Why == "" {
		r.io = io
	}
	if err := l.Run(ctx); err != nil {
		return fmt.Errorf("%s: %w", img.Path, err)
	}
	r.log("%s: %d MiB read, %s I/O (%s), %d MiB of it from the page cache, where they were", img.Path,
		l.Progress.Bytes.Load()>>20, io, io.Why, l.Progress.Cached.Load()>>20)
	return nil
}

func (r *restore) log(format string, args ...any) {
	if r.Log != nil {
		r.Log(fmt.Sprintf(format, args...))
	}
}
