// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
)

// someRanges makes rising ranges that do not touch, and says which pages are in them.
func someRanges(r *rand.Rand, n int64) (ranges []Range, in []bool) {
	in = make([]bool, n)
	for at := int64(0); at < n; {
		at += r.Int64N(6)
		length := 1 + r.Int64N(9)
		end := min(at+length, n)
		if at >= end {
			break
		}
		ranges = append(ranges, Range{at * PageSize, end * PageSize})
		for i := at; i < end; i++ {
			in[i] = true
		}
		at = end + 1
	}
	return ranges, in
}

func yielded(ranges []Range, err error) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		for _, r := range ranges {
			if !yield(r, nil) {
				return
			}
		}
		if err != nil {
			yield(Range{}, err)
		}
	}
}

func TestUnion(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := int64(0); n < 200; n++ {
		a, inA := someRanges(r, n)
		b, inB := someRanges(r, n)
		got := collect(t, union(yielded(a, nil), yielded(b, nil)), Range{End: n * PageSize})
		for i := range n {
			if covers(got, int(i)) != (inA[i] || inB[i]) {
				t.Fatalf("page %d of the union of %v and %v: %v", i, a, b, got)
			}
		}
		for k := 1; k < len(got); k++ {
			if got[k].Start == got[k-1].End {
				t.Fatalf("%v touch", got)
			}
		}
	}
	bad := errors.New("bad")
	for _, u := range []iter.Seq2[Range, error]{
		union(yielded(nil, bad), yielded([]Range{{0, PageSize}}, nil)), union(yielded(nil, nil), yielded(nil, bad)),
	} {
		var err error
		for _, err = range u {
		}
		if err != bad {
			t.Errorf("the error became %v", err)
		}
	}
	for range union(yielded([]Range{{0, PageSize}, {8 * PageSize, 9 * PageSize}}, nil), yielded(nil, nil)) {
		break // must not hang or panic
	}
}

func TestStretches(t *testing.T) {
	const size = 8 * PageSize
	r := rand.New(rand.NewPCG(5, 6))
	for n := int64(0); n < 200; n++ {
		ranges, in := someRanges(r, n)
		seen := make([]bool, n)
		last := int64(-1)
		for stretch, err := range Stretches(yielded(ranges, nil), size) {
			if err != nil {
				t.Fatal(err)
			}
			at := stretch[0].Start / size
			if at <= last {
				t.Fatalf("stretch %d after %d", at, last)
			}
			last = at
			for _, s := range stretch {
				if s.Start/size != at || (s.End-1)/size != at {
					t.Fatalf("%v is not within stretch %d", s, at)
				}
				for i := s.Start / PageSize; i < s.End/PageSize; i++ {
					seen[i] = true
				}
			}
		}
		if !slices.Equal(seen, in) {
			t.Fatalf("the stretches of %v hold other pages", ranges)
		}
	}
	bad := errors.New("bad")
	var err error
	for _, err = range Stretches(yielded([]Range{{0, PageSize}}, bad), size) {
	}
	if err != bad {
		t.Errorf("the error became %v", err)
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, PageSize, 3 * PageSize} {
		p := make([]byte, n)
		if !IsZero(p) {
			t.Errorf("%d zeros are not", n)
		}
		for _, at := range []int{0, 1, n / 2, n - 1} {
			if at < 0 || at >= n {
				continue
			}
			p[at] = 1
			if IsZero(p) {
				t.Errorf("a one at %d of %d is not seen", at, n)
			}
			p[at] = 0
		}
	}
}
