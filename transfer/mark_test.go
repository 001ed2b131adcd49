// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/ramjet-vm/ramjet/seal"
)

// collision is one of many pages of one sum: XXH3 multiplies the halves of each word, after an exclusive or with constants, so a
// word whose lower half is that constant counts for nothing but its plain sum with another such word.
func collision(n uint32) []byte {
	p := bytes.Repeat([]byte("guest"), page)[:page]
	le := binary.LittleEndian
	copy(p, "\xb8\xfe\x6c\x39")
	le.PutUint32(p[4:], n)
	copy(p[64:], "\x7c\x01\x81\x2c")
	le.PutUint32(p[68:], -n)
	return p
}

// TestLiveNotSteered (issue 15, point 12) has the guest replace pages by others of the same sum between the passes of a live save.
func TestLiveNotSteered(t *testing.T) {
	if a, b := collision(1), collision(2); bytes.Equal(a, b) || seal.PageSum(a) != seal.PageSum(b) {
		t.Fatal("these are no different pages of one sum")
	}
	g := mapRAM(t, "memfd", 64*page, nil, 0)
	n := uint32(0)
	work := func() {
		for at := 0; at < len(g.bytes); at += page {
			n++
			copy(g.bytes[at:], collision(n))
		}
	}
	work()
	ram := []*guestRAM{g}
	saveRAM(t, ram, nil, nil, 3, work, nil).check(t, ram, nil, nil)
}

// TestMark: each bit of a page and each key makes another mark, and equal pages have equal ones.
func TestMark(t *testing.T) {
	p := make([]byte, page)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	a, b := newMarkKey(), newMarkKey()
	whole := a.mark(p)
	if a.mark(bytes.Clone(p)) != whole {
		t.Error("one page has two marks")
	}
	if b.mark(p) == whole {
		t.Error("two keys make one mark")
	}
	seen := map[uint64]bool{whole: true}
	for bit := range 8 * page {
		p[bit/8] ^= 1 << (bit % 8)
		m := a.mark(p)
		if seen[m] {
			t.Fatalf("bit %d changes nothing", bit)
		}
		seen[m] = true
		p[bit/8] ^= 1 << (bit % 8)
	}
	for n := range uint32(1000) {
		if m := a.mark(collision(n)); seen[m] {
			t.Fatalf("pages of one sum have one mark, %d", n)
		} else {
			seen[m] = true
		}
	}
}

func BenchmarkMark(b *testing.B) {
	p, k := bytes.Repeat([]byte("guest"), page)[:page], newMarkKey()
	b.SetBytes(page)
	for range b.N {
		k.mark(p)
	}
}
