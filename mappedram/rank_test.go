// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"math/rand/v2"
	"testing"
)

func TestRanks(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, pages := range []int64{1, 63, 64, 4095, 4096, 4097, 20000} {
		b := NewBitmap(pages)
		for i := range pages {
			if random.IntN(3) == 0 {
				b.Set(i)
			}
		}
		r := NewRanks(b)
		var want int64
		for i := range pages {
			if got := r.Before(i); got != want {
				t.Fatalf("%d pages: %d are set before page %d, want %d", pages, got, i, want)
			}
			if b.Get(i) {
				want++
			}
		}
	}
}
