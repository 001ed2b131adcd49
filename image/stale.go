// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// A page is stale if its bit is clear, which makes it zero, and its place in the file holds something else. QEMU never looks
// there, but a VM whose memory is mapped from the file does. QEMU leaves stale pages when a page becomes zero while it saves a running
// VM (ram_save_file_bmap); other writers may have written into the file's holes since. So all images are searched, whoever wrote them.
//
// The search costs nothing where the file has holes, which lseek(2) finds. A copy that was made without holes (cp --sparse=never,
// rsync without -S) has to be read there.

// Stale returns the stale pages of block i. A state stream in which their bits are set and nothing is written makes them zero.
func (m *File) Stale(ctx context.Context, i int) (mappedram.Bitmap, error) {
	stale := mappedram.NewBitmap(m.Blocks[i].Pages())
	var mu sync.Mutex
	err := m.findStale(ctx, transfer.Params{Calls: m.Calls}, i, func(page int64) error {
		mu.Lock()
		defer mu.Unlock()
		stale.Set(page)
		return nil
	})
	return stale, err
}

// findStale calls found for each stale page of block i, from several goroutines at a time. An error of found ends the search.
func (m *File) findStale(ctx context.Context, params transfer.Params, i int, found func(page int64) error) error {
	// A description of its own, since lseek(2) moves the position of all who share one.
	f, err := m.Reopen().Open(os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	whole, batch := m.Blocks[i], batchPages&^63 // parts of a bitmap begin at words
	for first := int64(0); first < whole.Pages(); first += batch {
		part := whole
		part.PagesOffset += first * whole.PageSize
		part.Length = min(whole.Pages()-first, batch) * whole.PageSize
		stored, err := m.BitmapPart(i, first, part.Pages())
		if err != nil {
			return err
		}
		data, err := dataUnderClearBits(f, part, stored)
		if err != nil {
			return fmt.Errorf("cannot tell data from holes in %s: %w", m.Path, err)
		}
		if data.Count() == 0 {
			continue
		}
		l := &transfer.Load{
			Blocks: []transfer.LoadBlock{{Block: part, Stored: data}}, Image: m.Reopen(), Params: params,
			Sink: func(_ int, at int64, pages []byte) error {
				for k := int64(0); k < int64(len(pages))/whole.PageSize; k++ {
					if guestmem.IsZero(pages[k*whole.PageSize : (k+1)*whole.PageSize]) {
						continue
					}
					if err := found(first + at + k); err != nil {
						return err
					}
				}
				return nil
			},
			// A guest could not read it either.
			Unreadable: func(_ int, page int64, _ error) error { return found(first + page) },
		}
		if err := l.Run(ctx); err != nil {
			return fmt.Errorf("block %s: %w", whole.Name, err)
		}
	}
	return nil
}

// dataStep is how many pages are taken for data at a time, from the first that is: a page more is read sooner than asked for, and
// SEEK_HOLE goes on to the next hole wherever that is.
const dataStep = 16

// dataUnderClearBits returns the pages of a block, or of a part of one, whose bits in stored are clear and which may be no
// holes. A file system that knows no holes calls everything data.
func dataUnderClearBits(f *os.File, b mappedram.Block, stored mappedram.Bitmap) (mappedram.Bitmap, error) {
	clear, data := make(mappedram.Bitmap, len(stored)), make(mappedram.Bitmap, len(stored))
	for k, w := range stored {
		clear[k] = ^w
	}
	next := int64(-1) // the first page with data at or behind the place that was last asked about
	for first, end := range clear.Runs(b.Pages()) {
		for first < end {
			if next < first {
				at, err := seekData(int(f.Fd()), b.PagesOffset+first*b.PageSize)
				if err != nil {
					return nil, err
				}
				next = (at - b.PagesOffset) / b.PageSize
			}
			if next >= end {
				break
			}
			upTo := min(end, next+dataStep)
			data.SetRange(next, upTo)
			first = upTo
		}
	}
	return data, nil
}

// seekData returns the offset of the first data at or behind off; behind every file's end if there is none.
func seekData(fd int, off int64) (int64, error) {
	for {
		at, err := unix.Seek(fd, off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENXIO):
			return math.MaxInt64, nil
		case errors.Is(err, unix.EINVAL): // a file system that cannot tell
			return off, nil
		}
		return at, err
	}
}
