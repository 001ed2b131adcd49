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

// filling checks an image and, in eager mode, reads the blocks that are outside the state stream into the memory of a QEMU. It begins
// before that QEMU is there: while QEMU starts, the image is checked and the channels' buffers are filled.
//
// One goroutine, which fill starts, does the work. Another calls the methods: waitForCheck and into, if QEMU starts, and end in any case.
type filling struct {
	o       Options
	image   *image.Image
	ctx     context.Context // of the whole restore: a filling that fails ends it
	cancel  context.CancelCauseFunc
	memory  map[int]*awaited  // what is to be filled, by the block's index in the image
	ready   chan struct{}     // closed when QEMU's memory can be written
	checked chan struct{}     // closed when the check is over
	done    chan struct{}     // closed when the goroutine ends
	io      directio.Decision // how memory was read; valid when done
	err     error             // valid when done
	ownErr  error             // err, unless ctx had ended for another reason before; valid when done
}

// fill starts a filling, with a check before it if that is not nil.
func fill(ctx context.Context, o Options, img *image.Image, outside map[string]bool, check func(context.Context) error) *filling {
	f := &filling{o: o, image: img, memory: map[int]*awaited{}, ready: make(chan struct{}), checked: make(chan struct{}), done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	for i, b := range img.Blocks {
		if o.Mode == Eager && outside[b.Name] {
			f.memory[i] = &awaited{size: b.Length, ctx: f.ctx, ready: f.ready}
		}
	}
	go func() {
		defer close(f.done)
		if check != nil {
			f.finish(check(f.ctx))
		}
		close(f.checked)
		if f.err == nil && len(f.memory) > 0 {
			f.finish(f.run())
		}
	}()
	return f
}

// finish notes the result of a step. An error ends the restore.
func (f *filling) finish(err error) {
	if f.err = err; err == nil {
		return
	}
	if f.ctx.Err() == nil {
		f.ownErr = err
	}
	f.cancel(err)
}

// run reads the base, if there is one, and then what the image has on top of it.
func (f *filling) run() error {
	if f.image.Base != nil {
		if err := f.readFrom(f.image.Base); err != nil {
			return err
		}
	}
	return f.readFrom(f.image.File)
}

// readFrom reads what memory gets from one file: the image or its base.
func (f *filling) readFrom(img *image.File) error {
	check := &image.PageCheck{Image: img.Image, Bad: image.RefuseBad}
	parts, err := f.parts(img, check)
	if err != nil {
		return err
	}
	l := &transfer.Load{Blocks: parts, Image: img.Reopen()}
	if img.Seal != nil {
		l.Sink = check.Check
	}
	io, err := directio.Chooser{Mode: f.o.Direct, Calls: f.o.Calls}.Choose(l.Image, os.O_RDONLY)
	if err != nil {
		return err
	}
	l.Params = transfer.Params{Calls: f.o.Calls, Channels: f.o.Channels, Direct: io.Direct, Cached: io.Cached}
	f.io = io
	if err := l.Run(f.ctx); err != nil {
		return fmt.Errorf("%s: %w", img.Path, err)
	}
	f.o.log("%s: %d MiB read, %s I/O (%s), %d MiB of it from the page cache, where they were", img.Path,
		l.Progress.Bytes.Load()>>20, io, io.Why, l.Progress.Cached.Load()>>20)
	return nil
}

// parts returns the pages that memory gets from one file, as the engine reads them.
func (f *filling) parts(img *image.File, check *image.PageCheck) (parts []transfer.LoadBlock, err error) {
	for i := range f.image.Blocks {
		if f.memory[i] == nil {
			continue
		}
		sources, err := f.image.Sources(i)
		if err != nil {
			return nil, err
		}
		for k, s := range sources {
			if s.Image != img {
				continue
			}
			part := s.Part(check)
			part.Memory = f.memory[i]
			part.Clear = k == 0 // what memory holds before the first source is cleared; the others come on top
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// waitForCheck returns when the check is over. An error is why nothing is to be loaded.
func (f *filling) waitForCheck() error {
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
		a := f.memory[f.image.Index(q.Name)]
		if a == nil {
			continue
		}
		if a.Memory, err = in.OpenMemory(q, guestmem.ReadWrite); err != nil {
			return err
		}
		opened = append(opened, a.Memory)
	}
	if len(opened) > 0 {
		f.o.Progress.SetPhase("loading memory")
	}
	close(f.ready)
	<-f.done
	return f.err
}

// end ends the filling, and returns the restore's error: err is that of QEMU's start and load. What is wrong with the image
// comes before that, whichever was found first.
func (f *filling) end(err error) error {
	<-f.checked
	f.cancel(err)
	<-f.done
	if f.ownErr != nil {
		return f.ownErr
	}
	return err
}

// awaited is the memory of a block in a QEMU that may not be there yet. All methods but Size wait until it is ready.
type awaited struct {
	guestmem.Memory // valid when ready
	size            int64
	ctx             context.Context
	ready           <-chan struct{}
}

func (a *awaited) wait() error {
	select {
	case <-a.ready:
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
