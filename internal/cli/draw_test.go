// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/xml"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/inspect"
)

// testMap has a cell of every kind.
func testMap() *inspect.Map {
	cells := []inspect.Cell{{Data: 4}, {Data: 3, Zero: 1}, {Data: 1, Zero: 3}, {Zero: 4}, {Absent: 4}, {Changed: 4}, {Changed: 1, Absent: 3}, {Changed: 1, Data: 3}}
	long := make([]inspect.Cell, 20)
	for i := range long {
		long[i].Zero = 4
	}
	return &inspect.Map{PagesPerCell: 4, Blocks: []inspect.MapBlock{{Name: "pc.ram", Pages: 32, Cells: cells}, {Name: "a<b", Pages: 80, Cells: long}}}
}

func TestDrawMap(t *testing.T) {
	want := `pc.ram (128KiB)
       0B ██▒· ▇▃▃
a<b (320KiB)
       0B ················
   256KiB ····
each character 16KiB, ░▒▓█ data, ▁▃▅▇ changed, · zero, blank not in the image
`
	if got := drawMap(testMap(), 30); got != want {
		t.Errorf("drawn\n%s\nwant\n%s", got, want)
	}
}

func TestPicture(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"m.svg", "m.png", "m.PNG"} {
		path := filepath.Join(dir, name)
		if err := writePicture(path, testMap()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if name == "m.svg" {
			for d := xml.NewDecoder(bytes.NewReader(b)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%v in\n%s", err, b)
				}
			}
			continue
		}
		p, err := png.Decode(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if r, g, b, _ := p.At(1, blockHead+1).RGBA(); r>>8 != 0x33 || g>>8 != 0x66 || b>>8 != 0xaa {
			t.Errorf("the first cell is %x %x %x", r, g, b)
		}
	}
	if err := writePicture(filepath.Join(dir, "none", "m.svg"), testMap()); err == nil {
		t.Error("drawn in a directory that is not there")
	}
}

func TestMapFlag(t *testing.T) {
	for value, ok := range map[string]bool{"-": true, "x.svg": true, "x.PNG": true, "x.gif": false, "x": false, "": false} {
		var m mapFlag
		if err := m.Set(value); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}
