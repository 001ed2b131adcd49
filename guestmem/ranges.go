// SPDX-License-Identifier: Apache-2.0

package guestmem

import "iter"

// union yields in rising order, and joined, what is in a or in b, each of which rises by itself.
func union(a, b iter.Seq2[Range, error]) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		nextA, stopA := iter.Pull2(a)
		defer stopA()
		nextB, stopB := iter.Pull2(b)
		defer stopB()
		ra, errA, okA := nextA()
		rb, errB, okB := nextB()
		var open Range // what is not yielded yet, because more may join it
		for okA || okB {
			if errA != nil || errB != nil {
				yield(Range{}, firstError(errA, errB))
				return
			}
			var r Range
			if okA && (!okB || ra.Start <= rb.Start) {
				r = ra
				ra, errA, okA = nextA()
			} else {
				r = rb
				rb, errB, okB = nextB()
			}
			switch {
			case open.Len() == 0:
				open = r
			case r.Start <= open.End:
				open.End = max(open.End, r.End)
			default:
				if !yield(open, nil) {
					return
				}
				open = r
			}
		}
		if open.Len() > 0 {
			yield(open, nil)
		}
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Stretches gathers rising ranges by the stretch of size bytes (a multiple of PageSize) that they lie in, cut at its borders:
// each yield is all of one stretch. Stretches can be worked on side by side.
func Stretches(ranges iter.Seq2[Range, error], size int64) iter.Seq2[[]Range, error] {
	return func(yield func([]Range, error) bool) {
		var open []Range
		for r, err := range ranges {
			if err != nil {
				yield(nil, err)
				return
			}
			for r.Start < r.End {
				stretch := r.Start / size
				if len(open) > 0 && open[0].Start/size != stretch {
					if !yield(open, nil) {
						return
					}
					open = nil
				}
				end := min(r.End, (stretch+1)*size)
				open = append(open, Range{r.Start, end})
				r.Start = end
			}
		}
		if len(open) > 0 {
			yield(open, nil)
		}
	}
}
