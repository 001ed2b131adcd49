// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"iter"

	"github.com/ramjet-vm/ramjet/guestmem"
)

// produce hands out the parts of all blocks that may differ from what the image has so far, alternating between the two
// halves of each block. Guests have large areas of memory that exists and is zero, because the guest, or whoever saved
// it before, has touched it. If work came from one place only, all channels would look through such an area at the same
// time while the disk waits. More than two places were slower where it was measured.
func (s *Save) produce(emit func(job) error) error {
	for i, m := range s.Memory {
		middle := m.Size() / 2 / stretch * stretch
		lower, upper := s.jobs(i, guestmem.Range{End: middle}), s.jobs(i, guestmem.Range{Start: middle, End: m.Size()})
		for j, err := range inTurn(lower, upper) {
			if err == nil {
				err = emit(j)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// inTurn yields one job of each part in turn, until no part has any left.
func inTurn(parts ...iter.Seq2[job, error]) iter.Seq2[job, error] {
	return func(yield func(job, error) bool) {
		var nexts []func() (job, error, bool)
		for _, part := range parts {
			next, stop := iter.Pull2(part)
			defer stop()
			nexts = append(nexts, next)
		}
		for len(nexts) > 0 {
			left := nexts[:0]
			for _, next := range nexts {
				j, err, ok := next()
				if !ok {
					continue
				}
				if !yield(j, err) {
					return
				}
				left = append(left, next)
			}
			nexts = left
		}
	}
}

// jobs yields the jobs of a part of a block. The part's borders are borders of stretches, or the block's end.
func (s *Save) jobs(block int, within guestmem.Range) iter.Seq2[job, error] {
	return func(yield func(job, error) bool) {
		next := within.Start / stretch
		pass := func(until int64) {
			s.Progress.Passed.Add(min(until*stretch, within.End) - min(next*stretch, within.End))
			next = until
		}
		// Of what lies before a stretch, the memory has nothing.
		absent := func(before int64) bool {
			for at := next; at < before; at++ {
				if s.outdated(block, at) && !yield(job{block: block, stretch: at}, nil) {
					return false
				}
			}
			pass(before)
			return true
		}
		for ranges, err := range guestmem.Stretches(s.candidates(block, within), stretch) {
			if err != nil {
				yield(job{}, err)
				return
			}
			at := ranges[0].Start / stretch
			if !absent(at) || !yield(job{block: block, stretch: at, ranges: ranges}, nil) {
				return
			}
			pass(at + 1)
		}
		absent((within.End + stretch - 1) / stretch)
	}
}

// candidates are the parts of a block that have to be read.
func (s *Save) candidates(block int, within guestmem.Range) iter.Seq2[guestmem.Range, error] {
	m := s.Memory[block]
	if b := s.Base[block]; b != nil && b.Sums == nil {
		return m.(guestmem.Changed).Changed(within)
	}
	return m.Populated(within)
}

// outdated reports whether the image or the base has pages of a stretch of which memory has none.
func (s *Save) outdated(block int, number int64) bool {
	if !s.again && (s.Base[block] == nil || s.Base[block].Sums == nil) {
		return false
	}
	return s.expected(block, number) != stretchBits{}
}
