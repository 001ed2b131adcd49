// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// BadPage is a page that is not what was sealed.
type BadPage struct {
	Block  string `json:"block"`
	Page   int64  `json:"page"`   // in the block, from 0
	Offset int64  `json:"offset"` // in the file, bytes
	// Unreadable is why the page could not be read; "" if it could, and differs from what was sealed.
	Unreadable string `json:"unreadable,omitempty"`
	// Stale: the page's bit is clear, so the page is zero, and its place in the file holds something else.
	Stale bool `json:"stale,omitempty"`
}

func (b BadPage) String() string {
	s := fmt.Sprintf("page %d of block %s, at offset %d of the file", b.Page, b.Block, b.Offset)
	if b.Stale {
		s += ", is zero and holds something else"
	}
	if b.Unreadable != "" {
		s += ", cannot be read: " + b.Unreadable
	}
	return s
}

// PageCheck compares pages with their sums in an image's seal. The sums are trusted: without VerifyStream before, the result means
// nothing. Check is the Check of a transfer.Load, and is called from several goroutines at a time.
type PageCheck struct {
	Image *mappedram.Image
	parts []checkedPart
	// Bad is called with each page that is wrong, from several goroutines at a time. An error that it returns ends the work.
	Bad func(BadPage) error
}

// checkedPart is a run of pages of a block, so long that its bitmap fits in memory.
type checkedPart struct {
	block int
	first int64 // page of the block
	rank  int64 // stored pages of the block before it
	ranks *mappedram.Ranks
}

// add adds a part to be checked and returns it as a transfer.Load takes it. stored is the part's own bitmap.
func (c *PageCheck) add(block int, first, pages, rank int64, stored mappedram.Bitmap) transfer.LoadBlock {
	c.parts = append(c.parts, checkedPart{block, first, rank, mappedram.NewRanks(stored)})
	b := c.Image.Blocks[block]
	b.PagesOffset += first * b.PageSize
	b.Length = pages * b.PageSize
	return transfer.LoadBlock{Block: b, Index: len(c.parts) - 1, Stored: stored}
}

// Check compares neighbouring stored pages of a part, from its page first on.
func (c *PageCheck) Check(part int, first int64, pages []byte) error {
	p := &c.parts[part]
	b := c.Image.Blocks[p.block]
	sums, err := c.Image.Seal.Sums(p.block, int(p.rank+p.ranks.Before(first)), int(int64(len(pages))/b.PageSize))
	if err != nil {
		return err
	}
	for i, want := range sums {
		at := int64(i) * b.PageSize
		if seal.PageSum(pages[at:at+b.PageSize]) == want {
			continue
		}
		if err := c.Bad(c.page(part, first+int64(i))); err != nil {
			return err
		}
	}
	return nil
}

// page names a page of a part.
func (c *PageCheck) page(part int, page int64) BadPage {
	p := &c.parts[part]
	b := c.Image.Blocks[p.block]
	page += p.first
	return BadPage{Block: b.Name, Page: page, Offset: b.PagesOffset + page*b.PageSize}
}

// unreadable is the Unreadable of a transfer.Load.
func (c *PageCheck) unreadable(part int, page int64, err error) error {
	bad := c.page(part, page)
	bad.Unreadable = err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		bad.Unreadable = errno.Error()
	}
	return c.Bad(bad)
}

// RefuseBad is a PageCheck's Bad that ends the work at the first bad page.
func RefuseBad(b BadPage) error {
	return fmt.Errorf("%w: %s is not what was sealed (ramjet verify lists all such pages)", mappedram.ErrDamaged, b)
}
