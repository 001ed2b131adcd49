// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"fmt"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// Base is one block of memory as another image, the base, holds it: a save against it writes only pages that differ.
type Base struct {
	// Stored are the pages that the base stores; the others are zero in it.
	Stored mappedram.Bitmap

	// Sums reads the sums of the stored pages number first to first+n-1 (seal.Seal.Sums of the block). It is called from several
	// goroutines at a time.
	//
	// It is nil for memory that is mapped from the base itself (guestmem.Changed): that knows which pages are
	// no longer the base's, and nothing else is looked at.
	Sums func(first, n int) ([]uint64, error)

	ranks *mappedram.Ranks
}

func (b *Base) prepare(block mappedram.Block, m guestmem.Memory) error {
	if int64(len(b.Stored)) != (block.Pages()+63)/64 {
		return fmt.Errorf("the base of block %s is of another size", block.Name)
	}
	if _, ok := m.(guestmem.Changed); !ok && b.Sums == nil {
		return fmt.Errorf("block %s does not know what changed since its base", block.Name)
	}
	b.ranks = mappedram.NewRanks(b.Stored)
	return nil
}

// sums fills in what the pages from first on have for sums in the base.
func (b *Base) sums(first int64, sums []uint64) error {
	end := first + int64(len(sums))
	have := b.Stored.CountRange(first, end)
	if have == 0 {
		for i := range sums {
			sums[i] = zeroSum
		}
		return nil
	}
	found, err := b.Sums(int(b.ranks.Before(first)), int(have))
	if err != nil {
		return fmt.Errorf("cannot read the base's page sums: %w", err)
	}
	for i := range sums {
		sums[i] = zeroSum
		if b.Stored.Get(first + int64(i)) {
			sums[i], found = found[0], found[1:]
		}
	}
	return nil
}

// ZeroSum is the sum of a page of zeros.
var ZeroSum = seal.PageSum(make([]byte, directio.PageSize))

var zeroSum = ZeroSum
