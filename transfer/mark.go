// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"

	"github.com/ramjet-vm/ramjet/guestmem"
)

// A mark reports whether a page is still what it was when it was written. It is a hash by a random key, which nobody but this process
// knows and which is forgotten with the save. Page sums will not do for that: they have no key, and XXH3 is no cryptographic
// hash, so a program in the guest can make two pages of one sum, and have the image keep the older one. A seed does not help: such
// pairs can be made that have one sum under one seed in some thousands.
//
// The hash is NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) over words of 64 bits, reduced to 64 bits by a multilinear
// function: of two different pages, chosen by whoever does not know the key, the marks are equal with a probability below 2^-62.

// markKey is the key: a word for each word of a page, and five for the reduction.
type markKey [guestmem.PageSize/8 + 5]uint64

func newMarkKey() *markKey {
	var k markKey
	b := make([]byte, 8*len(k))
	rand.Read(b) // does not fail
	for i := range k {
		k[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return &k
}

// mark returns the mark of one page.
func (k *markKey) mark(page []byte) uint64 {
	p := (*[guestmem.PageSize]byte)(page)
	le := binary.LittleEndian
	// Two sums, so that the processor need not wait for one addition to begin the next.
	var hi, lo, hi2, lo2, c uint64
	for i := 0; i < len(p); i += 32 {
		h, l := bits.Mul64(le.Uint64(p[i:])+k[i/8], le.Uint64(p[i+8:])+k[i/8+1])
		lo, c = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, c)
		h, l = bits.Mul64(le.Uint64(p[i+16:])+k[i/8+2], le.Uint64(p[i+24:])+k[i/8+3])
		lo2, c = bits.Add64(lo2, l, 0)
		hi2, _ = bits.Add64(hi2, h, c)
	}
	lo, c = bits.Add64(lo, lo2, 0)
	hi, _ = bits.Add64(hi, hi2, c)
	// The upper half of (a*hi + b*lo + c*2^64) mod 2^128 for keys a and b of 128 bits.
	r := (*[5]uint64)(k[len(k)-5:])
	h1, l1 := bits.Mul64(hi, r[0])
	h2, l2 := bits.Mul64(lo, r[1])
	_, c = bits.Add64(l1, l2, 0)
	return h1 + h2 + c + hi*r[2] + lo*r[3] + r[4]
}
