// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// Map is a coarse picture of memory: each block in cells of equally many pages.
type Map struct {
	PagesPerCell int64 // a power of 2
	Blocks       []MapBlock
}

// MapBlock is one block of a Map.
type MapBlock struct {
	Name  string
	Pages int64
	Cells []Cell // the last one may stand for fewer pages
}

// Cell counts the pages of each kind that it stands for.
type Cell struct {
	Data    int64 // stored in the image
	Zero    int64 // not stored, and so zero
	Absent  int64 // not in the image: as in the base of a diff, or shared with the loader
	Changed int64 // in a diff, not as in the base; between two images, not the same
}

// newMap makes an empty map of blocks with at most limit cells altogether, or one for each block if that is more.
func newMap(blocks []mappedram.Block, limit int) *Map {
	m := &Map{PagesPerCell: 1}
	for m.cells(blocks) > int64(limit) && m.PagesPerCell < mappedram.MaxBlockLength/mappedram.PageSize {
		m.PagesPerCell *= 2
	}
	for _, b := range blocks {
		m.Blocks = append(m.Blocks, MapBlock{b.Name, b.Pages(), make([]Cell, m.cellsOf(b))})
	}
	return m
}

// cells is the number of all blocks' cells.
func (m *Map) cells(blocks []mappedram.Block) (n int64) {
	for _, b := range blocks {
		n += m.cellsOf(b)
	}
	return n
}

// cellsOf is the number of a block's cells.
func (m *Map) cellsOf(b mappedram.Block) int64 {
	return (b.Pages() + m.PagesPerCell - 1) / m.PagesPerCell
}

// add counts the pages first to end-1 of a block.
func (m *Map) add(block int, first, end int64, kind pageKind) {
	cells := m.Blocks[block].Cells
	for first < end {
		cell := first / m.PagesPerCell
		n := min(end, (cell+1)*m.PagesPerCell) - first
		*cells[cell].count(kind) += n
		first += n
	}
}

// pageKind is what a page is on a map.
type pageKind int

const (
	dataPage pageKind = iota
	zeroPage
	absentPage
	changedPage
)

// count is the cell's count of pages of a kind.
func (c *Cell) count(k pageKind) *int64 {
	return [...]*int64{&c.Data, &c.Zero, &c.Absent, &c.Changed}[k]
}

// windowPages is how many pages' bits are read at a time: 4 GiB of memory, 128 KiB of bitmap.
const windowPages = 1 << 20

// mapImage draws the memory of an image.
func mapImage(image *image.File, limit int) (*Map, error) {
	m := newMap(image.Blocks, limit)
	for i, b := range image.Blocks {
		stored, others := dataPage, zeroPage
		switch {
		case b.Ignored:
			m.add(i, 0, b.Pages(), absentPage)
			continue
		case image.BuildsOnBase(i):
			stored, others = changedPage, absentPage
		}
		for first := int64(0); first < b.Pages(); first += windowPages {
			n := min(windowPages, b.Pages()-first)
			bits, err := image.BitmapPart(i, first, n)
			if err != nil {
				return nil, err
			}
			at := int64(0)
			for start, end := range bits.Runs(n) {
				m.add(i, first+at, first+start, others)
				m.add(i, first+start, first+end, stored)
				at = end
			}
			m.add(i, first+at, first+n, others)
		}
	}
	return m, nil
}
