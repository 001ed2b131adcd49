// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// Sums keeps the sum of every stored page, eight bytes each in page order, in a scratch file, because for a large guest
// there are too many sums to hold in memory. Sums are kept as their difference from the sum of a zero page, so that a
// hole of the scratch file stands for zero pages.
type Sums struct {
	f      *directio.File
	starts []int64 // first page of each block in the file
	pages  int64   // of all blocks
}

// NewSums makes room in scratch, which it takes over, for the pages of blocks.
func NewSums(scratch *os.File, blocks []mappedram.Block, calls *sys.Calls) *Sums {
	s := &Sums{f: &directio.File{File: scratch, Calls: calls}}
	var pages int64
	for _, b := range blocks {
		s.starts = append(s.starts, pages)
		pages += b.Pages()
	}
	s.pages = pages
	return s
}

// marks is room for the marks of the same pages, in the same file behind the sums.
func (s *Sums) marks() *Sums {
	m := &Sums{f: s.f, pages: s.pages}
	for _, start := range s.starts {
		m.starts = append(m.starts, s.pages+start)
	}
	return m
}

// Add stores the sums of neighbouring pages of a block, at most a stretch of them, from page first on.
func (s *Sums) Add(block int, first int64, pages []byte) error {
	var sums [stretchPages]uint64
	n := len(pages) / guestmem.PageSize
	for i := range n {
		sums[i] = seal.PageSum(pages[i*guestmem.PageSize : (i+1)*guestmem.PageSize])
	}
	return s.put(block, first, sums[:n])
}

// MaxSums is how many sums Put takes at a time.
const MaxSums = stretchPages

// Put stores the sums of neighbouring pages of a block, at most MaxSums, from page first on.
func (s *Sums) Put(block int, first int64, sums []uint64) error { return s.put(block, first, sums) }

// put stores the sums of neighbouring pages.
func (s *Sums) put(block int, page int64, sums []uint64) error {
	b := make([]byte, 0, 8*stretchPages)
	for _, v := range sums {
		b = binary.LittleEndian.AppendUint64(b, v^zeroSum)
	}
	if _, err := s.f.WriteAt(b, (s.starts[block]+page)*8); err != nil {
		return fmt.Errorf("cannot keep the page sums: %w", err)
	}
	return nil
}

// get reads the sums of neighbouring pages.
func (s *Sums) get(block int, page int64, sums []uint64) error {
	b := make([]byte, 8*len(sums))
	// What is behind the end of the file was not stored either.
	if _, err := s.f.ReadAt(b, (s.starts[block]+page)*8); err != nil && err != io.EOF {
		return fmt.Errorf("cannot read back the page sums: %w", err)
	}
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint64(b[i*8:]) ^ zeroSum
	}
	return nil
}

// Each calls do with the sums of a block's stored pages, in page order, some at a time.
func (s *Sums) Each(block int, stored mappedram.Bitmap, pages int64, do func([]uint64) error) error {
	var window, out [4096]uint64
	var from, to int64 // the pages that are in window
	k := 0             // how many wait in out
	for start, end := range stored.Runs(pages) {
		for start < end {
			if start >= to {
				// Few pages far apart would take a read each; so what is between is read with them.
				from, to = start, min(start+int64(len(window)), pages)
				if err := s.get(block, from, window[:to-from]); err != nil {
					return err
				}
			}
			n := min(end, to, start+int64(len(out)-k))
			copy(out[k:], window[start-from:n-from])
			k += int(n - start)
			start = n
			if k == len(out) {
				if err := do(out[:k]); err != nil {
					return err
				}
				k = 0
			}
		}
	}
	if k == 0 {
		return nil
	}
	return do(out[:k])
}

// Close gives the scratch file up.
func (s *Sums) Close() error { return s.f.Close() }
