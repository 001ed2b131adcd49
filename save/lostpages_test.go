// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// TestLostPages has an image whose writer said that it stored a page and left a hole.
func TestLostPages(t *testing.T) {
	i := testkit.SmallImage()
	for _, lost := range []int64{-1, 2, 1000} {
		hole := testkit.SmallImage()
		hole.Page = func(block int, page int64) []byte {
			if block == 0 && page == lost {
				return make([]byte, mappedram.PageSize)
			}
			return i.Page(block, page)
		}
		img := opened(t, hole.Write(t))
		stored, sums, err := image.SumImage(context.Background(), img.Image, directio.Path(img.Path), transfer.Params{}, image.Beside(img.Path, nil), nil)
		testkit.Check(t, err)
		defer sums.Close()
		err = lostPages(img.Image, stored, sums)
		if (err != nil) != (lost >= 0) || err != nil && !strings.Contains(err.Error(), "pc.ram") {
			t.Errorf("page %d lost: %v", lost, err)
		}
	}
}

// opened opens an image for the rest of a test.
func opened(t testing.TB, path string) *image.File {
	t.Helper()
	img, err := image.OpenFile(path, nil)
	testkit.Check(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}
