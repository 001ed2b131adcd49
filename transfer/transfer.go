// SPDX-License-Identifier: Apache-2.0

// Package transfer moves guest pages between memory and an image over parallel channels.
//
// The package is the engine and nothing else: it is given memory (guestmem), a layout (mappedram) and an opener of the
// image's file, and knows neither QEMU nor QMP nor who opened the file. Each channel has a file description of its own.
// The channels take stretches of memory from one queue, so that one channel looks for zero pages while another waits
// for the disk. Page data goes through the channels, with O_DIRECT where the file takes it. Headers, bitmaps and device
// state are the caller's; they go through another description, without O_DIRECT.
//
// The engine needs a buffer for each worker, two bits a page for what is stored, and a scratch file for page sums.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/internal/sys"
)

// stretch is the unit of work, and the largest write, in bytes: 512 pages. A stretch has eight words of a bitmap and 4
// KiB of sums, which no other stretch shares.
const stretch = 2 << 20

// piece is how much memory is read at a time, in bytes. It fits into the cache of a core, where the pages still are
// when they are compared with zero and summed.
const piece = 256 << 10

// Pages of a stretch and of a piece.
const (
	stretchPages = stretch / guestmem.PageSize
	piecePages   = piece / guestmem.PageSize
)

// MaxChannels is QEMU's limit of multifd-channels.
const MaxChannels = 255

// DefaultChannels keep a device busy while some channels wait for the device and others read and sum. Saves with two to
// sixteen channels took the same time where it was measured (docs/scale.md); loads were fastest with sixteen.
const DefaultChannels = 16

// Params are the knobs of a transfer.
type Params struct {
	Channels     int   // 1 to MaxChannels; 0: DefaultChannels
	Direct       bool  // page data with O_DIRECT
	MaxBandwidth int64 // bytes of page data a second; 0: no limit

	// BufferedBelow is a number of bytes: a Save with Direct writes runs of neighbouring pages that are shorter than
	// that through the page cache; 0: none. An O_DIRECT write waits for the device and, where it fills a hole, for the
	// file system's journal. For thousands of single pages between holes that takes ten times as long as it takes the
	// page cache to collect the pages and write them back.
	BufferedBelow int64

	// Cached has a Load with Direct read pages that are in the page cache from there: a copy from memory is faster than
	// any disk, and a direct read of a dirty page waits until the page is written.
	Cached bool

	Calls *sys.Calls // nil: the kernel's
}

func (p Params) channels() int {
	if p.Channels == 0 {
		return DefaultChannels
	}
	return p.Channels
}

// Validate says what is wrong with p.
func (p Params) Validate() error {
	if p.Channels < 0 || p.Channels > MaxChannels {
		return fmt.Errorf("%d channels: give 1 to %d, or none to have the number chosen", p.Channels, MaxChannels)
	}
	if p.MaxBandwidth < 0 {
		return fmt.Errorf("a bandwidth of %d bytes a second: give 0 (no limit) or more", p.MaxBandwidth)
	}
	return nil
}

// Progress counts what a transfer has done so far. It may be read at any time.
type Progress struct {
	Total  atomic.Int64 // bytes of memory there are; 0 until known
	Passed atomic.Int64 // bytes of memory dealt with, holes too
	Pages  atomic.Int64 // looked at
	Stored atomic.Int64 // pages written to the image or read from it
	Zero   atomic.Int64 // pages found to be zero although they existed
	Bytes  atomic.Int64 // page data moved
	Cached atomic.Int64 // of these, bytes that a Load found in the page cache (Params.Cached)

	// Nanoseconds that the channels of a Save have spent, all together, so far.
	Scanning atomic.Int64 // reading pages, comparing and summing them
	Writing  atomic.Int64 // writing them; with Params.Direct that is waiting for the device
}

// job is one stretch of one block: the ranges in it that are to be moved.
type job struct {
	block   int
	stretch int64 // its number within the block
	ranges  []guestmem.Range
	clear   bool // Load: nothing is stored for the ranges, they are to be zero
}

// maxWorkers bounds how many stretches are moved at a time, and so the memory for buffers, however many channels there
// are.
const maxWorkers = 16

// channel is one way to the image with what belongs to it alone.
type channel struct {
	file     *directio.File
	buffered *directio.File  // the way through the page cache beside a direct file, if it is wanted
	limit    int64           // runs of fewer bytes are written that way
	buf      directio.Buffer // for a stretch; of the worker that the channel belongs to
}

func (c *channel) close() error {
	err := c.file.Close()
	if c.buffered != nil {
		err = errors.Join(err, c.buffered.Close())
	}
	return err
}

// out is the way for writing n bytes.
func (c *channel) out(n int) *directio.File {
	if c.buffered != nil && int64(n) < c.limit {
		return c.buffered
	}
	return c.file
}

// in is the way for reading n bytes at off, and whether they come from the page cache although they need not.
func (c *channel) in(off int64, n int) (f *directio.File, cached bool) {
	if c.buffered != nil && directio.Cached(c.buffered.File, off, int64(n)) {
		return c.buffered, true
	}
	return c.file, false
}

// openChannels opens n descriptions of the image. Page I/O is O_DIRECT on all of them or on none.
func openChannels(o directio.Opener, flags int, p Params) (cs []*channel, err error) {
	defer func() {
		if err != nil {
			closeChannels(cs)
		}
	}()
	for i := range p.channels() {
		c, err := openChannel(o, flags, p)
		if err != nil {
			return cs, err
		}
		cs = append(cs, c)
		if i >= maxWorkers {
			c.buf = cs[i%maxWorkers].buf
		} else if c.buf, err = directio.NewBuffer(stretch); err != nil {
			return cs, err
		}
	}
	return cs, nil
}

func openChannel(o directio.Opener, flags int, p Params) (_ *channel, err error) {
	c := &channel{limit: p.BufferedBelow}
	direct := flags
	if p.Direct {
		direct |= unix.O_DIRECT
	}
	if c.file, err = directio.Open(o, direct, p.Calls); err != nil {
		return nil, err
	}
	if p.Direct && (flags == os.O_WRONLY && p.BufferedBelow > 0 || flags == os.O_RDONLY && p.Cached) {
		c.buffered, err = directio.Open(o, flags, p.Calls)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func closeChannels(cs []*channel) (err error) {
	for _, c := range cs[:min(len(cs), maxWorkers)] {
		c.buf.Free()
	}
	for _, c := range cs {
		if e := c.close(); err == nil {
			err = e
		}
	}
	return err
}

// run feeds jobs to the channels until there are no more, or one fails. The first failure ends all jobs and is
// returned.
func run(ctx context.Context, cs []*channel, produce func(emit func(job) error) error, do func(context.Context, *channel, job) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make(chan job, len(cs))
	var wg sync.WaitGroup
	for k := range min(len(cs), maxWorkers) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			at := k // of the channels k, k+maxWorkers, ..., which take turns
			for j := range jobs {
				if ctx.Err() != nil {
					continue // drain, so that the producer never blocks
				}
				if err := do(ctx, cs[at], j); err != nil {
					cancel(err)
				}
				if at += maxWorkers; at >= len(cs) {
					at = k
				}
			}
		}()
	}
	err := produce(func(j job) error {
		select {
		case jobs <- j:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if err != nil {
		cancel(err)
	}
	close(jobs)
	wg.Wait()
	return context.Cause(ctx)
}
