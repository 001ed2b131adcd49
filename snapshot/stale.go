// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// stale finds the pages of a block of which the image holds something although they are zero: their bits are clear.
// QEMU leaves such when a page became zero while it saved a VM that ran (ram_save_file_bmap). Mapped from the image
// they would show; in the state stream, with their bits set and nothing written, they are zero again.
func (m *openedImage) stale(i int) (mappedram.Bitmap, error) {
	b := m.Blocks[i]
	stale := mappedram.NewBitmap(b.Pages())
	if m.Seal != nil && m.Seal.Format == "ramjet" {
		return stale, nil // what Ramjet saves has no such pages
	}
	stored, err := m.Bitmap(i)
	if err != nil {
		return nil, err
	}
	f, err := directio.Reopen{File: m.file}.Open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	pages, err := guestmem.OpenFile(f, b.PagesOffset, b.Length)
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	for ranges, err := range guestmem.Stretches(pages.Populated(guestmem.Range{End: b.Length}), 1<<20) {
		for _, r := range ranges {
			if err == nil {
				err = markStale(stale, stored, pages, r)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("block %s: %w", b.Name, err)
		}
	}
	return stale, nil
}

// markStale looks at a range of at most 1 MiB that is no hole.
func markStale(stale, stored mappedram.Bitmap, pages guestmem.Memory, r guestmem.Range) error {
	first, end := r.Start/guestmem.PageSize, r.End/guestmem.PageSize
	if stored.CountRange(first, end) == end-first {
		return nil
	}
	p := make([]byte, r.Len())
	if err := pages.Read(p, r.Start); err != nil {
		return err
	}
	for i := first; i < end; i++ {
		at := i*guestmem.PageSize - r.Start
		if !stored.Get(i) && !guestmem.IsZero(p[at:at+guestmem.PageSize]) {
			stale.Set(i)
		}
	}
	return nil
}
