// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// patches is memory of which some stretches exist.
type patches struct {
	ones
	exist []int64
	err   error // after them
}

func (p patches) Populated(within guestmem.Range) iter.Seq2[guestmem.Range, error] {
	return func(yield func(guestmem.Range, error) bool) {
		for _, n := range p.exist {
			start, end := max(n*stretch, within.Start), min((n+1)*stretch, within.End, p.Size())
			if start < end && !yield(guestmem.Range{Start: start, End: end}, nil) {
				return
			}
		}
		if p.err != nil {
			yield(guestmem.Range{}, p.err)
		}
	}
}

// TestJobs: a block is read from its two halves in turn, all of it once, and what is passed adds up.
func TestJobs(t *testing.T) {
	for _, c := range []struct {
		name  string
		size  int64 // pages
		exist []int64
		want  []int64
	}{
		{"all", 8 * stretchPages, []int64{0, 1, 2, 3, 4, 5, 6, 7}, []int64{0, 4, 1, 5, 2, 6, 3, 7}},
		{"odd", 5*stretchPages + 1, []int64{0, 1, 2, 3, 4, 5}, []int64{0, 2, 1, 3, 4, 5}},
		{"one", 1, []int64{0}, []int64{0}},
		{"none", 8 * stretchPages, nil, nil},
		{"lower half", 8 * stretchPages, []int64{1, 3}, []int64{1, 3}},
		{"upper half", 8 * stretchPages, []int64{4, 7}, []int64{4, 7}},
		{"here and there", 8 * stretchPages, []int64{3, 4, 6, 7}, []int64{3, 4, 6, 7}},
	} {
		t.Run(c.name, func(t *testing.T) {
			size := c.size * guestmem.PageSize
			s := saveOf(patches{ones: ones(size), exist: c.exist})
			var got []int64
			var bytes int64
			if err := s.produce(func(j job) error {
				got = append(got, j.stretch)
				for _, r := range j.ranges {
					bytes += r.Len()
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("stretches %v, want %v", got, c.want)
			}
			if n := s.Progress.Passed.Load(); n != size {
				t.Errorf("%d bytes passed of %d", n, size)
			}
			if want := min(int64(len(c.exist))*stretch, size); bytes != want {
				t.Errorf("%d bytes in the jobs, want %d", bytes, want)
			}
		})
	}
}

// TestJobsAgain: in a second pass stretches that the memory no longer has come too, if the image has something of them.
func TestJobsAgain(t *testing.T) {
	s := saveOf(patches{ones: 8 * stretch, exist: []int64{1, 5}})
	s.again = true
	for _, n := range []int64{2, 5, 7} {
		s.Stored[0].Set(n * stretchPages)
	}
	var got []int64
	if err := s.produce(func(j job) error { got = append(got, j.stretch); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []int64{1, 5, 2, 7}; !slices.Equal(got, want) {
		t.Errorf("stretches %v, want %v", got, want)
	}
}

func TestJobsFail(t *testing.T) {
	want := errors.New("unreadable")
	s := saveOf(patches{ones: 8 * stretch, exist: []int64{1, 5}, err: want})
	if err := s.produce(func(job) error { return nil }); !errors.Is(err, want) {
		t.Errorf("produce: %v", err)
	}
	s = saveOf(patches{ones: 8 * stretch, exist: []int64{1, 5}})
	if err := s.produce(func(job) error { return want }); !errors.Is(err, want) {
		t.Errorf("produce: %v", err)
	}
}

// saveOf is one that has begun.
func saveOf(m guestmem.Memory) *Save {
	block := mappedram.Block{Name: "ram", Length: m.Size(), PageSize: guestmem.PageSize}
	return &Save{
		Layout: &mappedram.Layout{Blocks: []mappedram.Block{block}}, Memory: []guestmem.Memory{m}, Base: []*Base{nil},
		Stored: []mappedram.Bitmap{mappedram.NewBitmap(block.Pages())}, written: []mappedram.Bitmap{mappedram.NewBitmap(block.Pages())},
	}
}
