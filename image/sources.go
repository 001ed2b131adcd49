// SPDX-License-Identifier: Apache-2.0

package image

import (
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Source is where some pages of a block come from.
type Source struct {
	Image  *File
	Block  int              // the block's index in Image
	Stored mappedram.Bitmap // the block's pages that Image stores
	Pages  mappedram.Bitmap // those of Stored that come from here
}

// Sources are where the pages of block i come from, each page from one of them: a diff's stored pages from the diff, the others
// from its base. Pages that come from nowhere are zero.
func (m *Image) Sources(i int) ([]Source, error) {
	stored, err := m.Bitmap(i)
	if err != nil {
		return nil, err
	}
	own := Source{m.File, i, stored, stored}
	if !m.FromBase(i) {
		return []Source{own}, nil
	}
	j := m.Base.Index(m.Blocks[i].Name)
	below, err := m.Base.Bitmap(j)
	if err != nil {
		return nil, err
	}
	rest := make(mappedram.Bitmap, len(below))
	for k := range rest {
		rest[k] = below[k] &^ stored[k]
	}
	return []Source{{m.Base, j, below, rest}, own}, nil
}

// FromBase reports whether block i of the image has pages from the base.
func (m *Image) FromBase(i int) bool {
	return m.Base != nil && !m.Seal.Blocks[i].Whole
}

// Part is the source as a transfer.Load takes it, whose pages c is to check.
func (s Source) Part(c *PageCheck) transfer.LoadBlock {
	p := c.add(s.Block, 0, s.Image.Blocks[s.Block].Pages(), 0, s.Stored)
	p.Stored = s.Pages
	return p
}
