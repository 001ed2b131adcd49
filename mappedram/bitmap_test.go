// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestBitmap compares with a slice of bools, over runs of every length and position.
func TestBitmap(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		pages := r.Int64N(300)
		b, oracle := NewBitmap(pages), make([]bool, pages)
		for range r.IntN(12) {
			if pages == 0 {
				break
			}
			first := r.Int64N(pages)
			end := first + r.Int64N(pages-first+1)
			switch r.IntN(3) {
			case 0:
				b.SetRange(first, end)
				for i := first; i < end; i++ {
					oracle[i] = true
				}
			case 1:
				b.Set(first)
				oracle[first] = true
			case 2:
				b.Clear(first)
				oracle[first] = false
			}
		}
		var count int64
		for i, want := range oracle {
			if b.CountRange(0, int64(i)) != count {
				t.Fatalf("seed %d: %d pages counted before page %d, want %d", seed, b.CountRange(0, int64(i)), i, count)
			}
			if b.Get(int64(i)) != want {
				t.Fatalf("seed %d: page %d is %v", seed, i, !want)
			}
			if want {
				count++
			}
		}
		if b.Count() != count || b.CountRange(0, pages) != count {
			t.Fatalf("seed %d: %d pages counted, want %d", seed, b.Count(), count)
		}
		// Also over fewer pages than the bitmap has.
		for _, n := range []int64{pages, pages / 2} {
			var got, want [][2]int64
			for start, end := range b.Runs(n) {
				got = append(got, [2]int64{start, end})
			}
			for i := int64(0); i < n; i++ {
				if oracle[i] && (i == 0 || !oracle[i-1]) {
					want = append(want, [2]int64{i, i})
				}
				if oracle[i] {
					want[len(want)-1][1] = i + 1
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: runs of %d pages %v, want %v", seed, n, got, want)
			}
		}
		raw := b.Bytes()
		for i, want := range oracle {
			if raw[i/8]>>(i%8)&1 != 0 != want {
				t.Fatalf("seed %d: page %d is wrong in the file", seed, i)
			}
		}
		if !slices.Equal(DecodeBitmap(raw), b) {
			t.Fatalf("seed %d: decoded otherwise than encoded", seed)
		}
	}
	if b := DecodeBitmap([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 1}); !slices.Equal(b, Bitmap{1, 256}) {
		t.Errorf("an incomplete word is decoded as %v", b)
	}
	for range NewBitmap(0).Runs(0) {
		t.Error("no pages have a run")
	}
	full := NewBitmap(1000)
	full.SetRange(0, 1000)
	for range full.Runs(1000) {
		break
	}
}

// TestBigBitmap goes over the pieces in which bitmaps are written and read.
func TestBigBitmap(t *testing.T) {
	const pages = 64*bitmapChunk*2 + 100
	l := newLayout(t, 0, config, []Block{{Name: "big", Length: pages * PageSize}})
	b := NewBitmap(pages)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = r.Uint64()
	}
	b[len(b)-1] &= mask(0, pages%64)
	f := new(memory)
	check(t, l.WriteHeaders(f))
	check(t, l.WriteBitmap(f, 0, b))
	_, err := l.WriteTail(f, deviceSections(), nil)
	check(t, err)
	check(t, l.WriteMagic(f))
	m, err := Open(f, f.size)
	check(t, err)
	got, err := m.Bitmap(0)
	check(t, err)
	if !slices.Equal(got, b) {
		t.Error("the bitmap is another")
	}
	if n, err := m.StoredPages(0); err != nil || n != b.Count() {
		t.Errorf("%d pages stored, %v, want %d", n, err, b.Count())
	}
	for _, c := range [][2]int64{{0, 1}, {64, 200}, {64 * bitmapChunk, 77}, {pages / 64 * 64, pages % 64}, {128, 0}} {
		part, err := m.BitmapPart(0, c[0], c[1])
		check(t, err)
		for i := range 64 * int64(len(part)) {
			if part.Get(i) != (i < c[1] && b.Get(c[0]+i)) {
				t.Fatalf("part %v is wrong at %d", c, i)
			}
		}
	}
	for _, c := range [][2]int64{{1, 64}, {-64, 64}, {0, -1}, {0, pages + 1}, {64, pages}} {
		if _, err := m.BitmapPart(0, c[0], c[1]); err == nil {
			t.Errorf("part %v is given", c)
		}
	}
}

func TestWriteBitmapRefuses(t *testing.T) {
	l := newLayout(t, 0, config, []Block{{Name: "a", Length: 65 * PageSize}})
	f := new(memory)
	behind := NewBitmap(65)
	behind.Set(65)
	for name, b := range map[string]Bitmap{"short": NewBitmap(64), "long": NewBitmap(129), "behind the end": behind} {
		if err := l.WriteBitmap(f, 0, b); err == nil || f.size > 0 {
			t.Errorf("a bitmap that is %s is written", name)
		}
	}
	check(t, l.WriteBitmap(f, 0, NewBitmap(65)))
	raw := make([]byte, 16)
	if f.ReadAt(raw, l.Blocks[0].BitmapOffset); !bytes.Equal(raw, make([]byte, 16)) {
		t.Error("an empty bitmap is not zero")
	}
}
