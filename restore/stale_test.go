// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// TestInstantRestoreRepairsHoles (issue 15, point 9): what is mapped from such an image is made zero by the state stream.
func TestInstantRestoreRepairsHoles(t *testing.T) {
	path, want := staleImage(t)
	image, err := image.Open(path, "", nil)
	testkit.Check(t, err)
	defer image.Close()
	said := ""
	w := &stateWriter{Options{Log: func(s string) { said = s }}, image, map[string]bool{"ram": true}}
	layout, err := mappedram.NewLayout(0, image.Config, image.Blocks)
	testkit.Check(t, err)
	f, err := os.Create(filepath.Join(t.TempDir(), "state"))
	testkit.Check(t, err)
	defer f.Close()
	set, err := w.writeBlock(context.Background(), f, layout, 0)
	testkit.Check(t, err)
	if set.Count() != 1 || !set.Get(want.Page) {
		t.Errorf("the stream makes %d pages zero", set.Count())
	}
	if !strings.Contains(said, "1 pages of block ram") {
		t.Errorf("it says %q", said)
	}
}

// staleImage is an image of Ramjet's, sealed, in which page 700 of its memory is zero and holds something else; page 701 holds
// zeros where a hole was.
func staleImage(t *testing.T) (path string, want image.BadPage) {
	path = filepath.Join(t.TempDir(), "image")
	testkit.Handmade(t, path, nil, [2]map[int64]byte{{0: 1, 1: 2, 600: 3}, {0: 4}})
	b := opened(t, path).Blocks[0]
	want = image.BadPage{Block: "ram", Page: 700, Offset: b.PagesOffset + 700*4096, Stale: true}
	testkit.Change(t, path, want.Offset+4095, []byte{1})
	testkit.Change(t, path, want.Offset+4096, make([]byte, 4096))
	return path, want
}
