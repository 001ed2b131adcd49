// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
)

// source is where some pages of a block come from.
type source struct {
	image  *openedImage
	block  int              // its index in image
	stored mappedram.Bitmap // what image stores of it
	pages  mappedram.Bitmap // what of that is to be taken
}

// sources are where the pages of block i come from, each from one place: of a diff those that it stores, the others from
// its base.
func (m *imageAndBase) sources(i int) ([]source, error) {
	stored, err := m.Bitmap(i)
	if err != nil {
		return nil, err
	}
	own := source{m.openedImage, i, stored, stored}
	if !m.fromBase(i) {
		return []source{own}, nil
	}
	j := m.base.Index(m.Blocks[i].Name)
	below, err := m.base.Bitmap(j)
	if err != nil {
		return nil, err
	}
	rest := make(mappedram.Bitmap, len(below))
	for k := range rest {
		rest[k] = below[k] &^ stored[k]
	}
	return []source{{m.base, j, below, rest}, own}, nil
}

// fromBase tells whether block i of the image has to be completed from the base.
func (m *imageAndBase) fromBase(i int) bool {
	return m.base != nil && !m.Seal.Blocks[i].Whole
}

// part is a source as a Load takes it, checked by c.
func (s source) part(c *pageCheck) migration.LoadBlock {
	p := c.add(s.block, 0, s.image.Blocks[s.block].Pages(), 0, s.stored)
	p.Stored = s.pages
	return p
}
