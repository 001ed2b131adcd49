// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
)

func TestDiff(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	a := testkit.SmallImage()
	a.Blocks[0].Length = 300 << 20 // more than a window
	few := func(block int, page int64) bool { return block > 0 || page%97 == 0 || page > 65530 && page < 65560 }
	a.Page = func(block int, page int64) []byte {
		switch {
		case !few(block, page):
			return nil
		case page%5 == 0:
			return make([]byte, 4096) // stored, and zero all the same
		}
		return testkit.RandomPage(uint64(block), uint64(page))
	}
	b := a
	var want []DiffRange
	changes := map[int64]bool{}
	for range 40 {
		changes[random.Int64N(300<<20/4096)] = true
	}
	for p := int64(65530); p < 65540; p++ {
		changes[p] = true
	}
	b.Page = func(block int, page int64) []byte {
		if block == 0 && changes[page] {
			return testkit.RandomPage(99, uint64(page))
		}
		if block == 0 && page%5 == 0 {
			return nil // what a has stored as zeros
		}
		return a.Page(block, page)
	}
	for p := range changes {
		want = append(want, DiffRange{"pc.ram", p, 1, p * 4096})
	}
	slices.SortFunc(want, func(a, b DiffRange) int { return int(a.First - b.First) })
	for i := 1; i < len(want); {
		if last := &want[i-1]; last.First+last.Pages == want[i].First {
			last.Pages++
			want = slices.Delete(want, i, i+1)
		} else {
			i++
		}
	}
	for _, c := range []struct{ a, b func(testkit.Image) string }{
		{func(i testkit.Image) string { return i.Sealed(t) }, func(i testkit.Image) string { return i.Sealed(t) }},
		{func(i testkit.Image) string { return i.Sealed(t) }, func(i testkit.Image) string { return i.Write(t) }},
		{func(i testkit.Image) string { return i.Write(t) }, func(i testkit.Image) string { return i.Write(t) }},
	} {
		pathA, pathB := c.a(a), c.b(b)
		for _, o := range []DiffOptions{{A: pathA, B: pathB, Map: 100}, {A: pathB, B: pathA, Map: 100}} {
			r, err := Diff(context.Background(), o)
			testkit.Check(t, err)
			if r.PagesDiffer != int64(len(changes)) || !slices.Equal(r.Ranges, want) || r.DevicesDiffer || r.Same || !r.RangesComplete {
				t.Errorf("%d pages differ in %v, want %d in %v", r.PagesDiffer, r.Ranges, len(changes), want)
			}
			var marked int64
			for _, b := range r.Map.Blocks {
				for _, c := range b.Cells {
					marked += c.Changed
				}
			}
			if marked != r.PagesDiffer {
				t.Errorf("%d pages are marked on the map", marked)
			}
		}
		r, err := Diff(context.Background(), DiffOptions{A: pathA, B: pathA})
		if err != nil || !r.Same || r.PagesDiffer != 0 {
			t.Errorf("with itself: %+v, %v", r, err)
		}
	}
}

// TestDiffLayouts compares images that do not have the same blocks, and device states that differ.
func TestDiffLayouts(t *testing.T) {
	a, b := testkit.SmallImage(), testkit.SmallImage()
	b.Blocks = []mappedram.Block{{Name: "pc.ram", Length: 8 << 20}, {Name: "new", Length: 8192}, {Name: "pc.bios", Length: 4096}}
	b.Page = func(block int, page int64) []byte {
		switch {
		case block == 0 && page < 1024, block == 2:
			return a.Page(block, page)
		}
		return nil
	}
	b.Sections = slices.Clone(b.Sections)
	b.Sections[40] ^= 1
	r, err := Diff(context.Background(), DiffOptions{A: a.Sealed(t), B: b.Sealed(t)})
	testkit.Check(t, err)
	want := []DiffBlock{{"pc.ram", 2048, 1024, ""}, {"/rom@etc/acpi/tables", 32, 32, "a"}, {"pc.bios", 1, 0, ""}, {"new", 2, 2, "b"}}
	if !slices.Equal(r.Blocks, want) || !r.DevicesDiffer || r.PagesTotal != 2048+32+1+2 {
		t.Errorf("%+v, want %+v", r, want)
	}
}

// TestDiffManyRanges has more ranges than are named.
func TestDiffManyRanges(t *testing.T) {
	a := testkit.SmallImage()
	a.Blocks = a.Blocks[:1]
	a.Blocks[0].Length = 4096 * (2*MaxDiffRanges + 100)
	b := a
	a.Page = func(_ int, page int64) []byte { return []byte{1} }
	b.Page = func(_ int, page int64) []byte { return []byte{byte(page%2) + 1} }
	r, err := Diff(context.Background(), DiffOptions{A: a.Sealed(t), B: b.Sealed(t)})
	testkit.Check(t, err)
	if len(r.Ranges) != MaxDiffRanges || r.RangesComplete || r.PagesDiffer != MaxDiffRanges+50 {
		t.Errorf("%d ranges of %d pages that differ, complete %v", len(r.Ranges), r.PagesDiffer, r.RangesComplete)
	}
}

// TestDiffDamaged does not believe sums or bitmaps that are not what was sealed.
func TestDiffDamaged(t *testing.T) {
	good := testkit.SmallImage().Sealed(t)
	image := opened(t, good)
	for name, at := range map[string]int64{"sums": image.FileSize - 136, "bitmap": image.Blocks[0].BitmapOffset + 1} {
		bad := testkit.Copy(t, good)
		testkit.Flip(t, bad, 8*at)
		if r, err := Diff(context.Background(), DiffOptions{A: good, B: bad}); !errors.Is(err, mappedram.ErrDamaged) {
			t.Error(name, fmt.Sprintf("%+v", r), err)
		}
	}
}
