// SPDX-License-Identifier: Apache-2.0

package mappedram

// rankWords is the number of bitmap words that share one count: 4096 pages, so that the counts of a bitmap of 16 million
// pages take 32 KiB.
const rankWords = 64

// Ranks numbers the stored pages of a bitmap: CountRange(0, i) at the cost of at most 64 words. The bitmap must not
// change while it is used.
type Ranks struct {
	bits   Bitmap
	before []int64 // pages set before word k*rankWords
}

// NewRanks counts b's pages once.
func NewRanks(b Bitmap) *Ranks {
	r := &Ranks{bits: b}
	var n int64
	for at := 0; at < len(b); at += rankWords {
		r.before = append(r.before, n)
		n += b[at:min(at+rankWords, len(b))].Count()
	}
	return r
}

// Before returns how many pages before page i are set, which is the number of page i among the stored ones.
// i is less than the bitmap's number of pages.
func (r *Ranks) Before(i int64) int64 {
	k := i / (64 * rankWords)
	return r.before[k] + r.bits.CountRange(k*64*rankWords, i)
}
