// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
)

func TestPagesDiffer(t *testing.T) {
	seen := make(map[uint64]bool)
	for seed := range uint64(2) {
		for number := range uint64(500) {
			for generation := range uint32(4) {
				var p page
				p.write(seed, number, generation)
				if !p.is(seed, number, generation) || p.isZero() {
					t.Fatalf("page %d,%d,%d is not what was written", seed, number, generation)
				}
				if p.is(seed, number, generation+1) || p.is(seed, number+1, generation) || p.is(seed+1, number, generation) {
					t.Fatalf("page %d,%d,%d is taken for another", seed, number, generation)
				}
				for _, w := range p {
					if seen[w] {
						t.Fatalf("a word of page %d,%d,%d was there before", seed, number, generation)
					}
					seen[w] = true
				}
			}
		}
	}
}

// TestEveryBitCounts flips each bit of a page.
func TestEveryBitCounts(t *testing.T) {
	var p page
	p.write(1, 2, 3)
	sum := p.sum()
	for i := range pageWords * 64 {
		p[i/64] ^= 1 << (i % 64)
		if p.is(1, 2, 3) || p.sum() == sum {
			t.Fatalf("bit %d does not count", i)
		}
		p[i/64] ^= 1 << (i % 64)
	}
	var z page
	z[pageWords-1] = 1 << 63
	if z.isZero() {
		t.Error("the last bit does not count")
	}
}

func testMemory(t *testing.T, pages int) *memory {
	t.Helper()
	m, err := newMemory(pages*pageSize, 42)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMemory(t *testing.T) {
	m := testMemory(t, 1000)
	wantCheck := func(pages, zero, wrong int) uint64 {
		t.Helper()
		r := m.check()
		if r.pages != pages || r.zero != zero || r.wrong != wrong {
			t.Errorf("check says %+v, want %d pages, %d zero, %d wrong", r, pages, zero, wrong)
		}
		return r.sum
	}
	wantCheck(0, 0, 0)
	if err := m.fill(600); err != nil {
		t.Fatal(err)
	}
	full := wantCheck(600, 0, 0)
	m.zero(10, 20)
	m.free(590, 10)
	wantCheck(600, 30, 0)
	m.fill(600)
	if wantCheck(600, 0, 0) == full {
		t.Error("pages that were zero came back with their old generation")
	}
	m.dirty(100)
	m.touch(600, 1)
	wantCheck(600, 0, 0)

	m.pages[7][0]++
	m.pages[9] = m.pages[8]
	m.pages[11] = page{}
	wantCheck(600, 0, 3)
	m.table[13]++
	wantCheck(600, 0, 4)
}

func TestTouchRewritesDifferentPages(t *testing.T) {
	for _, stride := range []int{1, 3, 9} {
		m := testMemory(t, 1000)
		m.fill(900)
		for range 25 {
			before := append([]uint32(nil), m.table...)
			if err := m.touch(100, stride); err != nil {
				t.Fatal(err)
			}
			changed := 0
			for i, entry := range m.table {
				changed += int(min(1, entry-before[i]))
			}
			if changed != 100 {
				t.Fatalf("stride %d: %d pages changed, want 100", stride, changed)
			}
		}
		if r := m.check(); r.wrong != 0 {
			t.Errorf("%+v", r)
		}
	}
}

// TestRanges passes what a host must not be able to crash the guest with.
func TestRanges(t *testing.T) {
	m := testMemory(t, 100)
	m.fill(50)
	const huge = math.MaxInt
	for name, err := range map[string]error{
		"fill more than there is":  m.fill(101),
		"zero past the end":        m.zero(40, 11),
		"zero from past the end":   m.zero(51, 0),
		"free with an overflow":    m.free(40, huge),
		"touch more than there is": m.touch(51, 1),
		"touch too far apart":      m.touch(26, 2),
		"touch in no direction":    m.touch(1, 0),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if r := m.check(); r.wrong != 0 || r.pages != 50 {
		t.Errorf("%+v", r)
	}
}

// TestProtocol feeds lines and compares the answers' form.
func TestProtocol(t *testing.T) {
	m := testMemory(t, 2000)
	var out bytes.Buffer
	g := &guest{memory: m, con: &out}
	g.count.Store(77)
	g.serve(strings.NewReader("\n12 ping\nfill 4\n3 check\ncount\n17 zero 0 9\n1 check\n\x00\xff junk\nzero 1 x\n9\n8 poweroff\nping\n"))
	want := []string{
		`ready kernel=\S+ uptime=\d+ms cpus=0 seed=42 pages=0 .*`,
		`12 pong`, `fill done 4`, `3 check ok pages=1024 zero=0 wrong=0 sum=[0-9a-f]{16}`, `count 77`,
		`17 zero done 0 9`, `1 check ok pages=1024 zero=9 wrong=0 sum=[0-9a-f]{16}`, `error .*`, `error x is not a number`, `error no command 9 .*`,
		`8 poweroff`,
	}
	for _, w := range want {
		line, err := out.ReadString('\n')
		if !regexp.MustCompile(`^ramjet-guest: ` + w + `\n$`).MatchString(line) {
			t.Errorf("%q (%v), want %s", line, err, w)
		}
	}
	if rest, _ := io.ReadAll(&out); len(rest) > 0 {
		t.Errorf("and more: %q", rest)
	}
}
