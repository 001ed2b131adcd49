// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// TestStale puts something, and zeros, into places that do not count, in runs and alone, and wants to know of the first.
func TestStale(t *testing.T) {
	i := testkit.SmallImage()
	all := i.Page
	i.Page = func(block int, page int64) []byte {
		if page >= 300 && page < 600 {
			return nil
		}
		return all(block, page)
	}
	path := i.Write(t)
	image := opened(t, path)
	b := image.Blocks[0]
	stored, err := image.Bitmap(0)
	testkit.Check(t, err)
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
		testkit.Change(t, path, b.PagesOffset+p*4096, content)
	}
	got, err := image.Stale(context.Background(), 0)
	testkit.Check(t, err)
	for p := range b.Pages() {
		if got.Get(p) != want.Get(p) {
			t.Fatalf("page %d is stale: %v, want %v (stored %v)", p, got.Get(p), want.Get(p), stored.Get(p))
		}
	}
	if n := want.Count(); n < 100 {
		t.Errorf("only %d pages were stale", n)
	}
	if none, err := image.Stale(context.Background(), 2); err != nil || none.Count() != 0 {
		t.Errorf("in another block %d are stale, %v", none.Count(), err)
	}
}

// staleImage is an image of Ramjet's, sealed, in which page 700 of its memory is zero and holds something else; page 701 holds
// zeros where a hole was.
func staleImage(t *testing.T) (path string, want BadPage) {
	path = filepath.Join(t.TempDir(), "image")
	testkit.Handmade(t, path, nil, [2]map[int64]byte{{0: 1, 1: 2, 600: 3}, {0: 4}})
	b := opened(t, path).Blocks[0]
	want = BadPage{Block: "ram", Page: 700, Offset: b.PagesOffset + 700*4096, Stale: true}
	testkit.Change(t, path, want.Offset+4095, []byte{1})
	testkit.Change(t, path, want.Offset+4096, make([]byte, 4096))
	return path, want
}

// TestVerifyLooksIntoHoles (issue 15, point 9) has something in a hole of an image that says that Ramjet wrote it.
func TestVerifyLooksIntoHoles(t *testing.T) {
	path, want := staleImage(t)
	r, err := Verify(context.Background(), VerifyOptions{Image: path})
	if !errors.Is(err, mappedram.ErrDamaged) || r.OK || r.PagesBad != 1 || !slices.Equal(r.BadPages, []BadPage{want}) || r.PagesChecked != 4 {
		t.Errorf("%v, %+v", err, r)
	}
	if err != nil && !strings.Contains(err.Error(), "1 pages are zero and hold something else") {
		t.Errorf("it says %v", err)
	}
	testkit.Change(t, path, want.Offset+4095, []byte{0})
	if r, err := Verify(context.Background(), VerifyOptions{Image: path}); err != nil {
		t.Errorf("with zeros in a hole: %v, %+v", err, r)
	}
}

// TestVerifyDiff (issue 15, point 9) wants a diff not to be whole without its base.
func TestVerifyDiff(t *testing.T) {
	dir := t.TempDir()
	base, diff, moved := filepath.Join(dir, "base"), filepath.Join(dir, "diff"), filepath.Join(dir, "moved")
	id := testkit.Handmade(t, base, nil, [2]map[int64]byte{{0: 1, 1: 2}, {0: 4}})
	testkit.Handmade(t, diff, &seal.Base{ID: id, Path: base}, [2]map[int64]byte{{1: 3}, {}})
	r, err := Verify(context.Background(), VerifyOptions{Image: diff})
	if err != nil || !r.OK || r.Base == nil || !r.Base.OK || r.Base.Image != base || r.PagesChecked != 1 || r.Base.PagesChecked != 3 {
		t.Errorf("a good one: %v, %+v", err, r)
	}
	bad := func(name, want string, is error) {
		t.Helper()
		r, err := Verify(context.Background(), VerifyOptions{Image: diff})
		if err == nil || r == nil || r.OK || r.BaseError == "" || !strings.Contains(err.Error(), want) || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
	testkit.Check(t, os.Rename(base, moved))
	bad("no base", "which is not at "+base, nil)
	if r, err := Verify(context.Background(), VerifyOptions{Image: diff, Base: moved}); err != nil || !r.OK {
		t.Errorf("with its base named: %v, %+v", err, r)
	}
	testkit.Handmade(t, base, nil, [2]map[int64]byte{{0: 9, 1: 2}, {0: 4}})
	bad("another base", "it was replaced or changed", nil)
	testkit.Check(t, os.Rename(moved, base))
	testkit.Flip(t, base, 8*(opened(t, base).Blocks[0].PagesOffset+5))
	bad("a damaged base", "the base of "+diff, mappedram.ErrDamaged)
}
