// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// flips is how many single bits are flipped, one at a time.
const flips = 10_000

// smallImage saves a machine that does nothing.
func smallImage(t *testing.T, flags ...string) string {
	t.Helper()
	vm.Need(t)
	dir := t.TempDir()
	socket, image := filepath.Join(dir, "qmp"), filepath.Join(dir, "image")
	c := exec.Command(vm.Program(), "-machine", "pc", "-accel", vm.Accelerator(), "-m", "8M", "-nodefaults", "-display", "none", "-S", "-qmp", "unix:"+socket+",server=on,wait=off")
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	must[save.Result](t, append([]string{"save", "--qmp", socket, image}, flags...)...)
	return image
}

// TestEveryBitCounts flips single bits anywhere in an image that QEMU's state went into: of each verify has to find it,
// and to name the page if it is in one.
func TestEveryBitCounts(t *testing.T) {
	img := smallImage(t)
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := open(t, img)
	places := covered(t, m)
	random := rand.New(rand.NewPCG(7, 11))
	kinds := map[string]int{}
	n := flips
	if testing.Short() {
		n /= 10
	}
	for i := range n {
		// Every other one in a kind of place chosen first, or hardly any would be outside of pages.
		p := places[random.IntN(len(places))]
		if i%2 == 0 {
			p = atByte(places, random.Int64N(total(places)))
		}
		k := random.IntN(len(p.extents))
		e := p.extents[k]
		at, bit := e.Offset+random.Int64N(e.Length), byte(1)<<random.IntN(8)
		kinds[p.kind]++
		change := func() {
			var b [1]byte
			if _, err := f.ReadAt(b[:], at); err != nil {
				t.Fatal(err)
			}
			b[0] ^= bit
			if _, err := f.WriteAt(b[:], at); err != nil {
				t.Fatal(err)
			}
		}
		change()
		r, err := image.Verify(context.Background(), image.VerifyOptions{Image: img, Channels: 1, Direct: directio.Off})
		change()
		switch {
		case !errors.Is(err, mappedram.ErrImage):
			t.Fatalf("bit %#x at %d (%s): %v", bit, at, p.kind, err)
		case p.kind == "page" && (r == nil || len(r.BadPages) != 1 || r.BadPages[0].Offset != at&^4095):
			t.Fatalf("bit %#x at %d: named are %+v", bit, at, r.BadPages)
		}
	}
	t.Logf("%v", kinds)
	if _, err := image.Verify(context.Background(), image.VerifyOptions{Image: img}); err != nil {
		t.Error("flipped back: ", err)
	}
}

// place is a kind of place in an image.
type place struct {
	kind    string
	extents []vmstate.Extent
}

func total(places []place) (n int64) {
	for _, p := range places {
		for _, e := range p.extents {
			n += e.Length
		}
	}
	return n
}

// atByte is the place of the n-th byte of all, that extent alone.
func atByte(places []place, n int64) place {
	for _, p := range places {
		for _, e := range p.extents {
			if n < e.Length {
				return place{p.kind, []vmstate.Extent{e}}
			}
			n -= e.Length
		}
	}
	panic("not so many")
}

// covered lists everything in an image that means something.
func covered(t *testing.T, m *mappedram.Image) []place {
	t.Helper()
	var headers, bitmaps, pages place
	headers.kind, bitmaps.kind, pages.kind = "header", "bitmap", "page"
	at := m.Offset
	for i, b := range m.Blocks {
		headers.extents = append(headers.extents, vmstate.Extent{Offset: at, Length: b.BitmapOffset - at})
		bitmaps.extents = append(bitmaps.extents, vmstate.Extent{Offset: b.BitmapOffset, Length: b.BitmapSize()})
		stored, err := m.Bitmap(i)
		if err != nil {
			t.Fatal(err)
		}
		for first, end := range stored.Runs(b.Pages()) {
			pages.extents = append(pages.extents, vmstate.Extent{Offset: b.PagesOffset + first*4096, Length: (end - first) * 4096})
		}
		at = b.PagesEnd()
	}
	return slices.Concat([]place{headers, bitmaps, pages}, []place{
		{"device state", []vmstate.Extent{{Offset: m.RAMEnd, Length: m.StreamEnd - m.RAMEnd}}},
		{"seal", []vmstate.Extent{{Offset: m.StreamEnd, Length: m.FileSize - m.StreamEnd}}},
	})
}
