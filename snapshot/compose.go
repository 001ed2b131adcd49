// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/seal"
)

// composed is an image whose pages are in its file already.
type composed struct {
	layout                *mappedram.Layout
	stored                []mappedram.Bitmap // nil for a block that is ignored
	sums                  *migration.Sums
	sections, description []byte
}

// complete writes all the rest, and seals it. It fills in what m says of the stream.
func (c *composed) complete(w *directio.File, m *seal.Metadata) (id seal.ID, err error) {
	if err := c.layout.WriteHeaders(w); err != nil {
		return id, err
	}
	for i, b := range c.layout.Blocks {
		if b.Ignored {
			continue
		}
		if err := c.layout.WriteBitmap(w, i, c.stored[i]); err != nil {
			return id, err
		}
	}
	end, err := c.layout.WriteTail(w, c.sections, c.description)
	if err != nil {
		return id, err
	}
	if err := c.layout.Publish(w); err != nil {
		return id, err
	}
	bitmap := func(i int) (mappedram.Bitmap, error) { return c.stored[i], nil }
	if m.StreamHash, err = c.layout.StreamHash(bitmap, c.sections, c.description); err != nil {
		return id, err
	}
	for i, b := range c.layout.Blocks {
		m.Blocks = append(m.Blocks, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: c.stored[i].Count()})
	}
	return writeSeal(w, end, m, c.stored, c.sums)
}
