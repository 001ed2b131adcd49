// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// Load brings pages from an image into the memory of a VM that has not run.
type Load struct {
	Blocks []LoadBlock
	Image  directio.Opener
	Params Params

	// Sink, if set, gets every page before memory does, and may refuse it: neighbouring pages of a block, from page
	// first on. It is called from several goroutines at a time.
	Sink func(block int, first int64, pages []byte) error

	// Unreadable, if set, is told of each page that the disk cannot read. Without it the first such page ends the load.
	// An error that it returns ends the load. It is for a Load without memory only, and is called as Sink is.
	Unreadable func(block int, page int64, err error) error

	Progress Progress
}

// LoadBlock is one block to fill.
type LoadBlock struct {
	mappedram.Block
	Index  int // in the image, as Sink is told
	Stored mappedram.Bitmap
	Memory guestmem.Memory // nil: the pages are only read, for Sink
	Clear  bool            // make zero what is not Stored
}

// Run loads the pages.
func (l *Load) Run(ctx context.Context) (err error) {
	for _, b := range l.Blocks {
		if b.Memory != nil && b.Memory.Size() != b.Length {
			return fmt.Errorf("block %s has %d bytes in the image and %d in memory", b.Name, b.Length, b.Memory.Size())
		}
	}
	channels, err := openChannels(l.Image, os.O_RDONLY, l.Params)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeChannels(channels)) }()
	return run(ctx, channels, l.produce, l.load)
}

func (l *Load) produce(emit func(job) error) error {
	for _, b := range l.Blocks {
		l.Progress.Total.Add(b.Stored.Count() * b.PageSize)
	}
	for i, b := range l.Blocks {
		stored := func(yield func(guestmem.Range, error) bool) {
			for first, end := range b.Stored.Runs(b.Pages()) {
				if !yield(guestmem.Range{Start: first * b.PageSize, End: end * b.PageSize}, nil) {
					return
				}
			}
		}
		for ranges := range guestmem.Stretches(stored, stretch) {
			if err := emit(job{block: i, stretch: ranges[0].Start / stretch, ranges: ranges}); err != nil {
				return err
			}
		}
		if err := l.leftovers(i, emit); err != nil {
			return err
		}
	}
	return nil
}

func (l *Load) load(_ context.Context, c *channel, j job) error {
	b := &l.Blocks[j.block]
	if j.clear {
		return b.clear(c, j.ranges)
	}
	for _, r := range j.ranges {
		if err := l.loadRange(c, b, r); err != nil {
			return fmt.Errorf("block %s: %w", b.Name, err)
		}
		l.Progress.Stored.Add(r.Len() / b.PageSize)
		l.Progress.Pages.Add(r.Len() / b.PageSize)
		l.Progress.Passed.Add(r.Len())
		l.Progress.Bytes.Add(r.Len())
	}
	return nil
}

func (l *Load) loadRange(c *channel, b *LoadBlock, r guestmem.Range) error {
	p := c.buf[:r.Len()]
	if err := l.read(c, b, r, p); err != nil || b.Memory == nil {
		return err
	}
	return b.Memory.Write(p, r.Start)
}

func (l *Load) read(c *channel, b *LoadBlock, r guestmem.Range, p []byte) error {
	f, cached := c.in(b.PagesOffset+r.Start, len(p))
	if cached {
		l.Progress.Cached.Add(int64(len(p)))
	}
	if _, err := f.ReadAt(p, b.PagesOffset+r.Start); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the image ends within its pages at %d: %w", b.PagesOffset+r.Start, io.ErrUnexpectedEOF)
		}
		if l.Unreadable != nil && badMedium(err) {
			return l.readSingly(f, b, r, p)
		}
		return err
	}
	if l.Sink == nil {
		return nil
	}
	return l.Sink(b.Index, r.Start/b.PageSize, p)
}

// badMedium tells the errors of a place on a disk from those of anything else: EIO, what block devices make of a medium
// error (ENODATA, blk_errors), and what file systems say of checksums (EUCLEAN, EBADMSG).
func badMedium(err error) bool {
	for _, e := range []syscall.Errno{unix.EIO, unix.ENODATA, unix.EUCLEAN, unix.EBADMSG} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// readSingly reads page by page where some cannot be read.
func (l *Load) readSingly(f *directio.File, b *LoadBlock, r guestmem.Range, p []byte) error {
	for at := int64(0); at < r.Len(); at += b.PageSize {
		page, one := (r.Start+at)/b.PageSize, p[at:at+b.PageSize]
		_, err := f.ReadAt(one, b.PagesOffset+r.Start+at)
		switch {
		case err != nil && badMedium(err):
			err = l.Unreadable(b.Index, page, err)
		case err == nil && l.Sink != nil:
			err = l.Sink(b.Index, page, one)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
