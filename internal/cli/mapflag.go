// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/inspect"
)

// mapFlag is --map: alone it draws on the terminal, with a file's name a picture.
type mapFlag struct {
	on   bool
	file string
}

func (m *mapFlag) register(c *cobra.Command) {
	f := c.Flags()
	f.Var(m, "map", "draw the memory on the terminal, or with --map=FILE.svg or --map=FILE.png into a file")
	f.Lookup("map").NoOptDefVal = "-"
}

func (m *mapFlag) String() string { return m.file }
func (m *mapFlag) Type() string   { return "FILE" }

func (m *mapFlag) Set(s string) error {
	m.on, m.file = true, s
	if s == "-" {
		m.file = ""
		return nil
	}
	switch strings.ToLower(filepath.Ext(s)) {
	case ".svg", ".png":
		return nil
	}
	return fmt.Errorf("%q is neither FILE.svg nor FILE.png (write --map=FILE, with =)", s)
}

const (
	mapRows      = 24  // on the terminal, for all blocks together, about
	pictureWidth = 128 // cells in a row of a picture
	pictureRows  = 128
)

// cells is how many cells a map is to have at most; 0: no map.
func (m *mapFlag) cells(a *app) int {
	switch {
	case !m.on:
		return 0
	case m.file != "":
		return pictureWidth * pictureRows
	case a.json:
		return 0 // there is nowhere to draw
	}
	return mapRows * drawingWidth(a.terminalWidth())
}

// mapped draws a map, if there is one. It returns the drawing, or a line about the picture that it made.
func (a *app) mapped(m *inspect.Map, f mapFlag) (string, error) {
	switch {
	case m == nil:
		return "", nil
	case f.file == "":
		return "\n" + drawMap(m, a.terminalWidth()), nil
	}
	if err := writePicture(f.file, m); err != nil {
		return "", err
	}
	return fmt.Sprintf("\nmap drawn in %s\n", f.file), nil
}

// terminalWidth is the width of standard output's terminal in columns, else COLUMNS, else 80.
func (a *app) terminalWidth() int {
	if f, ok := a.out.(*os.File); ok {
		if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && ws.Col > 0 {
			return min(max(int(ws.Col), 20), 1000)
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n >= 20 && n <= 1000 {
		return n
	}
	return 80
}
