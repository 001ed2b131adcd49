// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"os"
	"path/filepath"
	"strings"

	"github.com/ramjet-vm/ramjet/inspect"
)

// A picture of a map has rows of pictureWidth cells, each a square of cellSize, and for each block a line above it, in
// which SVG names the block.
const (
	cellSize  = 6
	blockHead = 3 * cellSize
)

// Colours that can be told apart by people who see red and green alike.
var (
	dataColour    = color.RGBA{0x33, 0x66, 0xaa, 0xff}
	changedColour = color.RGBA{0xee, 0x77, 0x33, 0xff}
	zeroColour    = color.RGBA{0xdd, 0xe3, 0xea, 0xff}
	absentColour  = color.RGBA{0xff, 0xff, 0xff, 0xff}
)

// cellColour mixes the colours of what is in a cell.
func cellColour(c inspect.Cell) color.RGBA {
	total := max(c.Data+c.Zero+c.Absent+c.Changed, 1)
	mix := func(f func(color.RGBA) uint8) uint8 {
		sum := c.Data*int64(f(dataColour)) + c.Changed*int64(f(changedColour)) + c.Zero*int64(f(zeroColour)) + c.Absent*int64(f(absentColour))
		return uint8(sum / total)
	}
	return color.RGBA{
		mix(func(c color.RGBA) uint8 { return c.R }), mix(func(c color.RGBA) uint8 { return c.G }),
		mix(func(c color.RGBA) uint8 { return c.B }), 0xff,
	}
}

// writePicture draws a map into a file, SVG or PNG by its name. An existing file is replaced when the new one is whole.
func writePicture(path string, m *inspect.Map) error {
	var b bytes.Buffer
	if strings.EqualFold(filepath.Ext(path), ".svg") {
		drawSVG(&b, m)
	} else if err := png.Encode(&b, drawPNG(m)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("cannot draw the map: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b.Bytes())
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("cannot draw the map: %w", err)
	}
	return nil
}

// rows is how many rows a block takes.
func rows(b inspect.MapBlock) int { return (len(b.Cells) + pictureWidth - 1) / pictureWidth }

// height is that of the picture of a map, in pixels.
func height(m *inspect.Map) int {
	h := 0
	for _, b := range m.Blocks {
		h += blockHead + rows(b)*cellSize
	}
	return h
}

func drawPNG(m *inspect.Map) image.Image {
	p := image.NewRGBA(image.Rect(0, 0, pictureWidth*cellSize, height(m)))
	draw.Draw(p, p.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src)
	y := 0
	for _, b := range m.Blocks {
		y += blockHead
		for i, c := range b.Cells {
			x, y := i%pictureWidth*cellSize, y+i/pictureWidth*cellSize
			draw.Draw(p, image.Rect(x, y, x+cellSize, y+cellSize), image.NewUniform(cellColour(c)), image.Point{}, draw.Src)
		}
		y += rows(b) * cellSize
	}
	return p
}

// drawSVG draws runs of equal cells as one rectangle.
func drawSVG(s *bytes.Buffer, m *inspect.Map) {
	const foot = blockHead
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="%d">`+"\n",
		pictureWidth*cellSize, height(m)+foot, 2*cellSize)
	y := 0
	for _, b := range m.Blocks {
		y += blockHead
		fmt.Fprintf(s, `<text x="0" y="%d">`, y-cellSize/2)
		xml.EscapeText(s, []byte(fmt.Sprintf("%s, %s", b.Name, size(b.Pages*4096))))
		s.WriteString("</text>\n")
		for first := 0; first < len(b.Cells); {
			end := first + 1
			for end < len(b.Cells) && end%pictureWidth != 0 && cellColour(b.Cells[end]) == cellColour(b.Cells[first]) {
				end++
			}
			c := cellColour(b.Cells[first])
			fmt.Fprintf(s, `<rect x="%d" y="%d" width="%d" height="%d" fill="#%02x%02x%02x"/>`+"\n",
				first%pictureWidth*cellSize, y+first/pictureWidth*cellSize, (end-first)*cellSize, cellSize, c.R, c.G, c.B)
			first = end
		}
		y += rows(b) * cellSize
	}
	x := 0
	for _, k := range []struct {
		what string
		c    color.RGBA
	}{{"data", dataColour}, {"changed", changedColour}, {"zero", zeroColour}, {"not in the image", absentColour}} {
		fmt.Fprintf(s, `<rect x="%d" y="%d" width="%d" height="%d" fill="#%02x%02x%02x" stroke="#888"/>`, x, y+cellSize, cellSize, cellSize, k.c.R, k.c.G, k.c.B)
		fmt.Fprintf(s, `<text x="%d" y="%d">%s</text>`+"\n", x+2*cellSize, y+2*cellSize, k.what)
		x += 20 * cellSize
	}
	fmt.Fprintf(s, `<text x="%d" y="%d">each square %s</text>`+"\n</svg>\n", x, y+2*cellSize, size(m.PagesPerCell*4096))
}
