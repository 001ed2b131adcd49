// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/ramjet-vm/ramjet/inspect"
)

// margin is what stands before a row of cells: its offset in the block.
const margin = 10

// drawingWidth is how many cells fit into a row, so that rows begin at round offsets.
func drawingWidth(terminal int) int { return max((terminal-margin)&^15, 8) }

// The characters of cells. What there is most of that is rarest decides: changed before data before zero before absent.
const (
	dataShades    = "░▒▓█"
	changedShades = "▁▃▅▇"
	zeroCell      = '·'
	absentCell    = ' '
)

// drawMap draws a map in rows that fit into a terminal of that width.
func drawMap(m *inspect.Map, width int) string {
	var s strings.Builder
	cols := drawingWidth(width)
	var kinds inspect.Cell
	for _, b := range m.Blocks {
		sayf(&s, "%s (%s)\n", b.Name, size(b.Pages*4096))
		for at := 0; at < len(b.Cells); at += cols {
			fmt.Fprintf(&s, "%*s ", margin-1, size(int64(at)*m.PagesPerCell*4096))
			for _, c := range b.Cells[at:min(at+cols, len(b.Cells))] {
				s.WriteRune(cellRune(c))
				kinds.Data += c.Data
				kinds.Zero += c.Zero
				kinds.Absent += c.Absent
				kinds.Changed += c.Changed
			}
			s.WriteString("\n")
		}
	}
	s.WriteString(legend(m, kinds))
	return s.String()
}

// cellRune is the character for a cell, the fuller the more of its pages are of the kind.
func cellRune(c inspect.Cell) rune {
	total := c.Data + c.Zero + c.Absent + c.Changed
	switch {
	case c.Changed > 0:
		return shade(changedShades, c.Changed, total)
	case c.Data > 0:
		return shade(dataShades, c.Data, total)
	case c.Zero > 0:
		return zeroCell
	}
	return absentCell
}

func shade(shades string, part, whole int64) rune {
	r := []rune(shades)
	n := int64(len(r))
	return r[min(part*n/whole, n-1)]
}

// legend explains what is in the drawing.
func legend(m *inspect.Map, kinds inspect.Cell) string {
	parts := []string{"each character " + size(m.PagesPerCell*4096)}
	for _, k := range []struct {
		n    int64
		sign string
		what string
	}{{kinds.Data, dataShades, "data"}, {kinds.Changed, changedShades, "changed"}, {kinds.Zero, string(zeroCell), "zero"}, {kinds.Absent, "blank", "not in the image"}} {
		if k.n > 0 {
			parts = append(parts, k.sign+" "+k.what)
		}
	}
	return strings.Join(parts, ", ") + "\n"
}
