// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
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
	got, err := image.stale(0)
	check(t, err)
	for p := range b.Pages() {
		if got.Get(p) != want.Get(p) {
			t.Fatalf("page %d is stale: %v, want %v (stored %v)", p, got.Get(p), want.Get(p), stored.Get(p))
		}
	}
	if n := want.Count(); n < 100 {
		t.Errorf("only %d pages were stale", n)
	}
	if none, err := image.stale(2); err != nil || none.Count() != 0 {
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
