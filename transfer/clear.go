// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"fmt"
	"iter"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// leftovers emits what a block's memory holds where the image stores nothing. Memory is zero when a QEMU starts, except
// for a memory-backend-file over an existing file, which may hold pages of the VM's former life.
func (l *Load) leftovers(block int, emit func(job) error) error {
	b := l.Blocks[block]
	if b.Memory == nil || !b.Clear {
		return nil
	}
	populated := b.Memory.Populated(guestmem.Range{End: b.Length})
	for ranges, err := range guestmem.Stretches(without(populated, b.Stored), stretch) {
		if err == nil {
			err = emit(job{block: block, stretch: ranges[0].Start / stretch, ranges: ranges, clear: true})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// without yields the parts of ranges whose pages are not in stored.
func without(ranges iter.Seq2[guestmem.Range, error], stored mappedram.Bitmap) iter.Seq2[guestmem.Range, error] {
	return func(yield func(guestmem.Range, error) bool) {
		for r, err := range ranges {
			if err != nil {
				yield(r, err)
				return
			}
			first, end := r.Start/guestmem.PageSize, r.End/guestmem.PageSize
			for at := first; at < end; at++ {
				if stored.Get(at) {
					continue
				}
				from := at
				for at < end && !stored.Get(at) {
					at++
				}
				if !yield(guestmem.Range{Start: from * guestmem.PageSize, End: at * guestmem.PageSize}, nil) {
					return
				}
			}
		}
	}
}

// clear makes ranges zero. Pages that are zero already are not written, so that holes stay holes.
func (b *LoadBlock) clear(c *channel, ranges []guestmem.Range) error {
	for _, r := range ranges {
		p := c.buf[:r.Len()]
		err := b.Memory.Read(p, r.Start)
		if err == nil && !guestmem.IsZero(p) {
			clear(p)
			err = b.Memory.Write(p, r.Start)
		}
		if err != nil {
			return fmt.Errorf("block %s: %w", b.Name, err)
		}
	}
	return nil
}
