// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

func verified(t *testing.T, path string) (*VerifyResult, error) {
	t.Helper()
	return Verify(context.Background(), VerifyOptions{Image: path})
}

func TestVerify(t *testing.T) {
	path := testkit.SmallImage().Sealed(t)
	for _, mode := range []directio.Mode{directio.Auto, directio.Off} {
		r, err := Verify(context.Background(), VerifyOptions{Image: path, Direct: mode})
		if err != nil || !r.OK || !r.Sealed || r.PagesBad != 0 || r.ID == "" {
			t.Fatalf("%+v, %v", r, err)
		}
		if want := opened(t, path).Seal.TotalStored(); r.PagesChecked != want || r.BytesChecked != want*4096 {
			t.Errorf("%d pages, %d bytes were checked of %d pages", r.PagesChecked, r.BytesChecked, want)
		}
	}
}

// TestVerifyNamesPages damages pages and wants exactly these named.
func TestVerifyNamesPages(t *testing.T) {
	path := testkit.SmallImage().Sealed(t)
	image := opened(t, path)
	var want []BadPage
	for _, p := range []struct {
		block int
		page  int64
	}{{0, 0}, {0, 1}, {0, 700}, {0, 701}, {0, 1023}, {1, 31}} {
		b := image.Blocks[p.block]
		at := b.PagesOffset + p.page*4096
		testkit.Flip(t, path, 8*(at+77)+3)
		if stored, err := image.Bitmap(p.block); err != nil || stored.Get(p.page) {
			want = append(want, BadPage{Block: b.Name, Page: p.page, Offset: at})
		}
	}
	defer func(n int64) { batchPages = n }(batchPages)
	for _, batchPages = range []int64{1 << 24, 1000, 100, 64} {
		r, err := Verify(context.Background(), VerifyOptions{Image: path})
		if !errors.Is(err, mappedram.ErrDamaged) || !slices.Equal(r.BadPages, want) || r.PagesBad != int64(len(want)) || r.PagesChecked != image.Seal.TotalStored() {
			t.Errorf("%v\n%v, want\n%v", err, r.BadPages, want)
		}
		if !strings.Contains(err.Error(), want[0].String()) {
			t.Errorf("%v does not name %v", err, want[0])
		}
	}
}

// TestVerifyManyBadPages has more of them than are named.
func TestVerifyManyBadPages(t *testing.T) {
	i := testkit.SmallImage()
	i.Blocks[0].Length = 64 << 20
	i.Page = func(block int, page int64) []byte { return make([]byte, 4096) }
	path := i.Sealed(t)
	b := opened(t, path).Blocks[0]
	testkit.Change(t, path, b.PagesOffset, []byte(strings.Repeat("x", int(b.Length))))
	r, err := Verify(context.Background(), VerifyOptions{Image: path})
	if !errors.Is(err, mappedram.ErrDamaged) || r.PagesBad != b.Pages() || len(r.BadPages) != MaxBadPages {
		t.Errorf("%v, %d pages of which %d are named, want %d", err, r.PagesBad, len(r.BadPages), b.Pages())
	}
}

// TestVerifyUnreadable has a disk that cannot read some sectors.
func TestVerifyUnreadable(t *testing.T) {
	path := testkit.SmallImage().Sealed(t)
	b := opened(t, path).Blocks[0]
	bad := []int64{b.PagesOffset + 2*4096 + 512, b.PagesOffset + 500*4096}
	c := sys.Kernel()
	pread := c.Pread
	c.Pread = func(fd int, p []byte, off int64) (int, error) {
		for _, at := range bad {
			if off <= at && at < off+int64(len(p)) {
				return 0, unix.EIO
			}
		}
		return pread(fd, p, off)
	}
	r, err := Verify(context.Background(), VerifyOptions{Image: path, Calls: c})
	if !errors.Is(err, mappedram.ErrDamaged) || len(r.BadPages) != 2 || r.BadPages[0].Page != 2 || r.BadPages[1].Page != 500 || r.BadPages[1].Unreadable == "" {
		t.Errorf("%v, %+v", err, r)
	}
	if !strings.Contains(err.Error(), "cannot be read: input/output error") {
		t.Errorf("it says %v", err)
	}
	if want := opened(t, path).Seal.TotalStored(); r.PagesChecked != want {
		t.Errorf("%d of %d pages were checked", r.PagesChecked, want)
	}
}

func TestVerifyUnsealed(t *testing.T) {
	path := testkit.SmallImage().Write(t)
	r, err := Verify(context.Background(), VerifyOptions{Image: path})
	if !errors.Is(err, seal.ErrNoSeal) || errors.Is(err, mappedram.ErrImage) || r == nil || r.Sealed || r.OK || len(r.Damage) != 0 {
		t.Errorf("unsealed: %+v, %v", r, err)
	}
	image := opened(t, path)
	for name, at := range map[string]int64{
		"device state": image.SectionsOffset + 4,
		"description":  image.DescriptionOffset,
		// Of 1 page in a word of 64.
		"bitmap": image.Blocks[2].BitmapOffset + 1,
	} {
		c := testkit.Copy(t, path)
		testkit.Flip(t, c, 8*at+3)
		if r, err := Verify(context.Background(), VerifyOptions{Image: c}); !errors.Is(err, mappedram.ErrImage) || r != nil && len(r.Damage) == 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	i := testkit.SmallImage()
	i.Page = func(int, int64) []byte { return nil }
	if _, err := verified(t, i.Write(t)); !errors.Is(err, mappedram.ErrImage) {
		t.Errorf("no page is stored: %v", err)
	}
}
