// SPDX-License-Identifier: Apache-2.0

package image

import (
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Source is where some pages of a block come from.
type Source struct {
	Image  *File
	Block  int              // its index in image
	Stored mappedram.Bitmap // what image stores of it
	Pages  mappedram.Bitmap // what of that is to be taken
}

// Sources are where the pages of block i come from, each from one place: of a diff those that it stores, the others from
// its base.
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

// FromBase tells whether block i of the image has to be completed from the base.
func (m *Image) FromBase(i int) bool {
	return m.Base != nil && !m.Seal.Blocks[i].Whole
}

// Part is a source as a Load takes it, checked by c.
func (s Source) Part(c *PageCheck) transfer.LoadBlock {
	p := c.add(s.Block, 0, s.Image.Blocks[s.Block].Pages(), 0, s.Stored)
	p.Stored = s.Pages
	return p
}
