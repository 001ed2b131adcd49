// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"time"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// A page of the image is in one of these states, of which Stored and written are the two bits:
//
//	Stored  written
//	  -       -      zero or, against a base, as in the base; a hole
//	  x       x      its bytes are in the file
//	  x       -      zero, and not so in the base; a hole
//
// A plan takes the pages of one range from the state that the last Run left to the one that the memory
// asks for, with as few writes as there are runs of neighbours that need one.
type plan struct {
	*Save
	ctx   context.Context
	c     *channel
	block int

	sums  [stretchPages]uint64 // what the pages have for sums now, if Sums wants them
	marks [stretchPages]uint64 // and for marks, if there are to be more Runs
	todo  [stretchPages]action

	// What goes to Sums and marks for the stretch, in one piece at its end.
	noted      [stretchPages]uint64
	notedMarks [stretchPages]uint64
	isNoted    [stretchPages / 64]uint64 // which of these there are
}

type action uint8

const (
	keep  action = iota
	write        // other bytes than are in the file
	punch        // what is in the file does not count any more
)

// scanRange reads one range of existing memory, which lies within one stretch, decides what each page needs, and does
// it.
func (p *plan) scanRange(r guestmem.Range) error {
	view := p.c.buf[:r.Len()]
	began := time.Now()
	for at := int64(0); at < r.Len(); at += piece {
		part := view[at:min(at+piece, r.Len())]
		if err := p.read(part, r.Start+at); err != nil {
			return err
		}
		if err := p.decide(r.Start/guestmem.PageSize, at/guestmem.PageSize, part); err != nil {
			return err
		}
	}
	first, n := r.Start/guestmem.PageSize, r.Len()/guestmem.PageSize
	p.Progress.Pages.Add(n)
	p.Progress.Scanning.Add(int64(time.Since(began)))
	return p.act(first, n, view)
}

// read reads a part of a range.
func (p *plan) read(part []byte, off int64) error {
	if p.exact() {
		return p.Memory[p.block].(guestmem.Changed).ReadChanged(part, []guestmem.Range{{Start: off, End: off + int64(len(part))}})
	}
	return p.Memory[p.block].Read(part, off)
}

// exact reports whether the memory knows by itself which pages differ from the base. Then only those pages are read.
func (p *plan) exact() bool {
	b := p.Base[p.block]
	return b != nil && b.Sums == nil
}

// shortRange is the length in bytes below which ranges are read many at a time.
const shortRange = 32 << 10

// batch returns how many of the ranges, from the first on, are so short that they should be read together.
func (p *plan) batch(ranges []guestmem.Range) int {
	if !p.exact() {
		return 0
	}
	n, total := 0, int64(0)
	for n < len(ranges) && ranges[n].Len() < shortRange && total+ranges[n].Len() <= piece {
		total += ranges[n].Len()
		n++
	}
	return n
}

// scanBatch is scanRange for many short ranges, read by one call: for a guest that writes here and there, a call for
// each range would take longer than copying the pages.
func (p *plan) scanBatch(ranges []guestmem.Range) error {
	began := time.Now()
	var total int64
	for _, r := range ranges {
		total += r.Len()
	}
	view := p.c.buf[:total]
	if err := p.Memory[p.block].(guestmem.Changed).ReadChanged(view, ranges); err != nil {
		return err
	}
	p.Progress.Scanning.Add(int64(time.Since(began)))
	for _, r := range ranges {
		first, n := r.Start/guestmem.PageSize, r.Len()/guestmem.PageSize
		if err := p.decide(first, 0, view[:r.Len()]); err != nil {
			return err
		}
		p.Progress.Pages.Add(n)
		if err := p.act(first, n, view[:r.Len()]); err != nil {
			return err
		}
		view = view[r.Len():]
	}
	return nil
}

// decide fills in sums and todo for the pages in view, from index at on, and sets or clears the pages' bits in Stored.
// Index 0 of sums and todo is page start of the block.
func (p *plan) decide(start, at int64, view []byte) error {
	first, n := start+at, int64(len(view))/guestmem.PageSize
	sums, marks, todo := p.sums[at:at+n], p.marks[at:at+n], p.todo[at:at+n]
	var old, base [piecePages]uint64
	if p.again {
		if err := p.onFile.get(p.block, first, old[:n]); err != nil {
			return err
		}
	}
	b := p.Base[p.block]
	bySum := b != nil && b.Sums != nil
	if bySum {
		if err := b.sums(first, base[:n]); err != nil {
			return err
		}
	}
	for i := range n {
		page := view[i*guestmem.PageSize : (i+1)*guestmem.PageSize]
		zero := guestmem.IsZero(page)
		sums[i] = zeroSum
		onFile := p.written[p.block].Get(first + i)
		same := false // as it is in the file
		if zero {
			p.Progress.Zero.Add(1)
		} else {
			if p.key != nil {
				marks[i] = p.key.mark(page)
				same = onFile && marks[i] == old[i]
			}
			if bySum || p.Sums != nil && !same {
				sums[i] = seal.PageSum(page)
			}
		}
		differs := !zero
		switch {
		case bySum:
			differs = sums[i] != base[i]
		case b != nil:
			differs = !zero || b.Stored.Get(first+i)
		}
		todo[i] = keep
		switch {
		case differs && !zero && !same:
			todo[i] = write
		case onFile && (zero || !differs):
			todo[i] = punch
		}
		p.store(first+i, differs)
	}
	return nil
}

func (p *plan) store(page int64, stored bool) {
	if stored {
		p.Stored[p.block].Set(page)
	} else {
		p.Stored[p.block].Clear(page)
	}
}

// act carries out todo for n pages from page first on, with one call for each run of neighbours that need the same.
func (p *plan) act(first, n int64, view []byte) error {
	for i := int64(0); i < n; {
		end := i + 1
		for end < n && p.todo[end] == p.todo[i] {
			end++
		}
		var err error
		switch p.todo[i] {
		case write:
			err = p.write(first+i, i, view[i*guestmem.PageSize:end*guestmem.PageSize])
		case punch:
			err = p.punch(first+i, end-i)
		}
		if err != nil {
			return err
		}
		i = end
	}
	return nil
}

// write writes neighbouring pages, of which page first of the block is number i in sums and marks.
func (p *plan) write(first, i int64, pages []byte) error {
	n := int64(len(pages)) / guestmem.PageSize
	p.note(first, p.sums[i:i+n], p.marks[i:i+n])
	b := p.Layout.Blocks[p.block]
	began := time.Now()
	if err := p.Limit.write(p.ctx, p.c.out(len(pages)), pages, b.PagesOffset+first*guestmem.PageSize); err != nil {
		return err
	}
	p.Progress.Writing.Add(int64(time.Since(began)))
	p.written[p.block].SetRange(first, first+n)
	p.Progress.Stored.Add(n)
	p.Progress.Bytes.Add(n * guestmem.PageSize)
	return nil
}

// punch makes pages of the file holes again: an image may be mapped, and then the file's content counts.
func (p *plan) punch(first, n int64) error {
	b := p.Layout.Blocks[p.block]
	if err := p.c.punch(b.PagesOffset+first*guestmem.PageSize, n*guestmem.PageSize); err != nil {
		return err
	}
	for i := first; i < first+n; i++ {
		p.written[p.block].Clear(i)
	}
	var zeros [stretchPages]uint64
	for i := range n {
		zeros[i] = zeroSum
	}
	p.note(first, zeros[:n], zeros[:n]) // the mark of a page that is not in the file means nothing
	return nil
}

// note keeps the sums and marks of pages from first on for flush.
func (p *plan) note(first int64, sums, marks []uint64) {
	at := first % stretchPages
	copy(p.noted[at:], sums)
	copy(p.notedMarks[at:], marks)
	mappedram.Bitmap(p.isNoted[:]).SetRange(at, at+int64(len(sums)))
}

// flush stores the sums that were noted. Pages between them keep their sums.
func (p *plan) flush(start int64) error {
	if p.Sums == nil {
		return nil
	}
	noted := mappedram.Bitmap(p.isNoted[:])
	lo, hi := int64(-1), int64(0)
	for first, end := range noted.Runs(stretchPages) {
		if lo < 0 {
			lo = first
		}
		hi = end
	}
	if lo < 0 {
		return nil
	}
	if err := p.put(p.Sums, start, lo, hi, &p.noted); err != nil || p.onFile == nil {
		return err
	}
	return p.put(p.onFile, start, lo, hi, &p.notedMarks)
}

// put stores what was noted of the pages lo to hi-1 of a stretch; of the others what there was before.
func (p *plan) put(in *Sums, start, lo, hi int64, values *[stretchPages]uint64) error {
	var old [stretchPages]uint64
	if p.again {
		if err := in.get(p.block, start+lo, old[lo:hi]); err != nil {
			return err
		}
	}
	for i := lo; i < hi; i++ {
		switch {
		case mappedram.Bitmap(p.isNoted[:]).Get(i):
		case p.again:
			values[i] = old[i]
		default:
			values[i] = zeroSum
		}
	}
	return in.put(p.block, start+lo, values[lo:hi])
}

// handleAbsent handles pages that memory does not have (any more) but the image or the base does: such a page is zero
// or, in memory that is mapped from the base, still the base's. bits has a bit for each page of the stretch that begins
// at page start.
func (p *plan) handleAbsent(start int64, bits mappedram.Bitmap) error {
	b := p.Base[p.block]
	for first, end := range bits.Runs(stretchPages) {
		for i := start + first; i < start+end; i++ {
			p.store(i, b != nil && b.Sums != nil && b.Stored.Get(i))
		}
		for at := first; at < end; {
			stop := at + 1
			on := p.written[p.block].Get(start + at)
			for stop < end && p.written[p.block].Get(start+stop) == on {
				stop++
			}
			if on {
				if err := p.punch(start+at, stop-at); err != nil {
					return err
				}
			}
			at = stop
		}
	}
	return nil
}
