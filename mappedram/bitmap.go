// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// Bitmap says of each page of a block whether the image stores it: page i is bit i%64 of word i/64. Its methods panic
// on pages that it has no word for, as slices do. It is not safe for writing from several goroutines.
type Bitmap []uint64

// NewBitmap returns a bitmap of that many pages, none set.
func NewBitmap(pages int64) Bitmap { return make(Bitmap, (pages+63)/64) }

// Set marks page i as stored.
func (b Bitmap) Set(i int64) { b[i/64] |= 1 << (i % 64) }

// Clear marks page i as not stored.
func (b Bitmap) Clear(i int64) { b[i/64] &^= 1 << (i % 64) }

// Get reports whether page i is stored.
func (b Bitmap) Get(i int64) bool { return b[i/64]>>(i%64)&1 != 0 }

// SetRange marks the pages first to end-1.
func (b Bitmap) SetRange(first, end int64) {
	for first < end {
		n := min(64-first%64, end-first)
		b[first/64] |= mask(first%64, n)
		first += n
	}
}

// Count returns the number of pages set.
func (b Bitmap) Count() int64 {
	var n int
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}

// CountRange returns the number of pages set among first to end-1. CountRange(0, i) is the number of page i among the
// stored ones, by which a seal names it.
func (b Bitmap) CountRange(first, end int64) int64 {
	var count int
	for first < end {
		n := min(64-first%64, end-first)
		count += bits.OnesCount64(b[first/64] & mask(first%64, n))
		first += n
	}
	return int64(count)
}

// mask has n bits set from bit first on; n is 1 to 64.
func mask(first, n int64) uint64 { return ^uint64(0) >> (64 - n) << first }

// Runs yields the maximal runs [start, end) of set pages among the first pages pages, in order.
func (b Bitmap) Runs(pages int64) iter.Seq2[int64, int64] { return b.RunsIn(0, pages) }

// RunsIn yields the maximal runs [start, end) of set pages among the pages first to last-1, in order.
func (b Bitmap) RunsIn(first, last int64) iter.Seq2[int64, int64] {
	return func(yield func(start, end int64) bool) {
		for at := first; at < last; {
			start := min(b.next(at, 0), last)
			end := min(b.next(start, ^uint64(0)), last)
			if start == end || !yield(start, end) {
				return
			}
			at = end
		}
	}
}

// next returns the first page from at on that is set, or, with flip all ones, that is not; beyond the bitmap if none.
func (b Bitmap) next(at int64, flip uint64) int64 {
	for i := at / 64; i < int64(len(b)); i++ {
		w := b[i] ^ flip
		if i == at/64 {
			w &= ^uint64(0) << (at % 64)
		}
		if w != 0 {
			return 64*i + int64(bits.TrailingZeros64(w))
		}
	}
	return max(at, 64*int64(len(b)))
}

// Bytes returns the bitmap as it is in the file. QEMU writes words of its host's order; this is a little-endian one's.
func (b Bitmap) Bytes() []byte {
	raw := make([]byte, 8*len(b))
	b.encode(raw)
	return raw
}

// encode writes the words to raw, which has 8 bytes for each.
func (b Bitmap) encode(raw []byte) {
	for i, w := range b {
		binary.LittleEndian.PutUint64(raw[8*i:], w)
	}
}

// DecodeBitmap reads a bitmap from the bytes in a file; a last incomplete word is completed with zeros.
func DecodeBitmap(raw []byte) Bitmap {
	b := make(Bitmap, (len(raw)+7)/8)
	b.decode(raw)
	return b
}

// decode reads len(b) words from raw.
func (b Bitmap) decode(raw []byte) {
	for i := range b {
		if len(raw) >= 8 {
			b[i] = binary.LittleEndian.Uint64(raw)
			raw = raw[8:]
			continue
		}
		var last [8]byte
		copy(last[:], raw)
		b[i] = binary.LittleEndian.Uint64(last[:])
	}
}
