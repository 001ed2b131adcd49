// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/seal"
)

// TestStale puts something, and zeros, into places that do not count, in runs and alone, and wants to know of the first.
func TestStale(t *testing.T) {
	i := smallImage()
	all := i.page
	i.page = func(block int, page int64) []byte {
		if page >= 300 && page < 600 {
			return nil
		}
		return all(block, page)
	}
	path := i.write(t)
	image := opened(t, path)
	b := image.Blocks[0]
	stored, err := image.Bitmap(0)
	check(t, err)
	want := mappedram.NewBitmap(b.Pages())
	for p := range b.Pages() {
		if stored.Get(p) || p%3 == 0 && p < 400 {
			continue
		}
		content := make([]byte, mappedram.PageSize) // zeros, but no hole
		if p%2 == 0 {
			content[p%4096] = 1
			want.Set(p)
		}
		change(t, path, b.PagesOffset+p*4096, content)
	}
	got, err := image.stale(context.Background(), 0)
	check(t, err)
	for p := range b.Pages() {
		if got.Get(p) != want.Get(p) {
			t.Fatalf("page %d is stale: %v, want %v (stored %v)", p, got.Get(p), want.Get(p), stored.Get(p))
		}
	}
	if n := want.Count(); n < 100 {
		t.Errorf("only %d pages were stale", n)
	}
	if none, err := image.stale(context.Background(), 2); err != nil || none.Count() != 0 {
		t.Errorf("in another block %d are stale, %v", none.Count(), err)
	}
}

// TestLostPages has an image whose writer said that it stored a page and left a hole.
func TestLostPages(t *testing.T) {
	i := smallImage()
	for _, lost := range []int64{-1, 2, 1000} {
		hole := smallImage()
		hole.page = func(block int, page int64) []byte {
			if block == 0 && page == lost {
				return make([]byte, mappedram.PageSize)
			}
			return i.page(block, page)
		}
		image := opened(t, hole.write(t))
		stored, sums, err := sumImage(context.Background(), image.Image, directio.Path(image.path), migration.Params{}, beside(image.path), nil)
		check(t, err)
		defer sums.Close()
		err = lostPages(image.Image, stored, sums)
		if (err != nil) != (lost >= 0) || err != nil && !strings.Contains(err.Error(), "pc.ram") {
			t.Errorf("page %d lost: %v", lost, err)
		}
	}
}

// staleImage is an image of Ramjet's, sealed, in which page 700 of its memory is zero and holds something else; page 701 holds
// zeros where a hole was.
func staleImage(t *testing.T) (path string, want BadPage) {
	path = filepath.Join(t.TempDir(), "image")
	handmade(t, path, nil, [2]map[int64]byte{{0: 1, 1: 2, 600: 3}, {0: 4}})
	b := opened(t, path).Blocks[0]
	want = BadPage{Block: "ram", Page: 700, Offset: b.PagesOffset + 700*4096, Stale: true}
	change(t, path, want.Offset+4095, []byte{1})
	change(t, path, want.Offset+4096, make([]byte, 4096))
	return path, want
}

// TestVerifyLooksIntoHoles (issue 15, point 9) has something in a hole of an image that says that Ramjet wrote it.
func TestVerifyLooksIntoHoles(t *testing.T) {
	path, want := staleImage(t)
	r, err := verified(t, path)
	if !errors.Is(err, mappedram.ErrDamaged) || r.OK || r.PagesBad != 1 || !slices.Equal(r.BadPages, []BadPage{want}) || r.PagesChecked != 4 {
		t.Errorf("%v, %+v", err, r)
	}
	if err != nil && !strings.Contains(err.Error(), "1 pages are zero and hold something else") {
		t.Errorf("it says %v", err)
	}
	change(t, path, want.Offset+4095, []byte{0})
	if r, err := verified(t, path); err != nil {
		t.Errorf("with zeros in a hole: %v, %+v", err, r)
	}
}

// TestInstantRestoreRepairsHoles (issue 15, point 9): what is mapped from such an image is made zero by the state stream.
func TestInstantRestoreRepairsHoles(t *testing.T) {
	path, want := staleImage(t)
	image, err := openWithBase(path, "")
	check(t, err)
	defer image.close()
	said := ""
	r := &restore{image: image, outside: map[string]bool{"ram": true}}
	r.Log = func(s string) { said = s }
	layout, err := mappedram.NewLayout(0, image.Config, image.Blocks)
	check(t, err)
	f, err := os.Create(filepath.Join(t.TempDir(), "state"))
	check(t, err)
	defer f.Close()
	set, err := r.writeBlock(context.Background(), f, layout, 0)
	check(t, err)
	if set.Count() != 1 || !set.Get(want.Page) {
		t.Errorf("the stream makes %d pages zero", set.Count())
	}
	if !strings.Contains(said, "1 pages of block ram") {
		t.Errorf("it says %q", said)
	}
}

// TestVerifyDiff (issue 15, point 9) wants a diff not to be whole without its base.
func TestVerifyDiff(t *testing.T) {
	dir := t.TempDir()
	base, diff, moved := filepath.Join(dir, "base"), filepath.Join(dir, "diff"), filepath.Join(dir, "moved")
	id := handmade(t, base, nil, [2]map[int64]byte{{0: 1, 1: 2}, {0: 4}})
	handmade(t, diff, &seal.Base{ID: id, Path: base}, [2]map[int64]byte{{1: 3}, {}})
	r, err := verified(t, diff)
	if err != nil || !r.OK || r.Base == nil || !r.Base.OK || r.Base.Image != base || r.PagesChecked != 1 || r.Base.PagesChecked != 3 {
		t.Errorf("a good one: %v, %+v", err, r)
	}
	bad := func(name, want string, is error) {
		t.Helper()
		r, err := verified(t, diff)
		if err == nil || r == nil || r.OK || r.BaseError == "" || !strings.Contains(err.Error(), want) || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
	check(t, os.Rename(base, moved))
	bad("no base", "which is not at "+base, nil)
	if r, err := Verify(context.Background(), VerifyOptions{Image: diff, Base: moved}); err != nil || !r.OK {
		t.Errorf("with its base named: %v, %+v", err, r)
	}
	handmade(t, base, nil, [2]map[int64]byte{{0: 9, 1: 2}, {0: 4}})
	bad("another base", "it was replaced or changed", nil)
	check(t, os.Rename(moved, base))
	flip(t, base, 8*(opened(t, base).Blocks[0].PagesOffset+5))
	bad("a damaged base", "the base of "+diff, mappedram.ErrDamaged)
}
