// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// Save writes memory's pages into the page areas of an image: all pages that are not zero or, against a base, all that
// differ from the base.
//
// Run may be called again for the same memory; it then writes only what has changed since the last Run. So memory can
// be copied while it changes, and once more when it stands still. The last Run decides: after it each page of the image
// is what memory had then.
type Save struct {
	Layout *mappedram.Layout
	Memory []guestmem.Memory // as many as Layout has blocks, of their lengths
	Base   []*Base           // nil, or for each block its base or nil
	Image  directio.Opener
	Params Params
	Limit  *Limit // paces page data; nil: one of Params.MaxBandwidth
	Sums   *Sums  // gets the sum of each page written; nil: none are wanted, and only one Run is
	Live   bool   // Run is going to be called again: there have to be Sums

	Stored   []mappedram.Bitmap // the result: which pages of each block are in the image
	Progress Progress

	written  []mappedram.Bitmap // pages that are in the file, by the last Run
	again    bool
	key      *markKey           // of the marks; nil if there are none
	onFile   *Sums              // the marks of the pages that are in the file
	reserved [][]guestmem.Range // of each block, by Reserve
}

// Run saves the memory. Before the first Run the image's page areas must be holes, because a page that is zero is not
// written. When Run fails the image is worthless and the memory unchanged.
func (s *Save) Run(ctx context.Context) (err error) {
	if err := s.begin(); err != nil {
		return err
	}
	channels, err := openChannels(s.Image, os.O_WRONLY, s.Params)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeChannels(channels)) }()
	err = run(ctx, channels, s.produce, s.save)
	s.again = true
	return err
}

func (s *Save) begin() error {
	s.Progress.Passed.Store(0)
	if s.again {
		if s.onFile == nil {
			return errors.New("without page marks nobody knows what has changed since the last run")
		}
		return nil
	}
	if len(s.Memory) != len(s.Layout.Blocks) {
		return fmt.Errorf("%d pieces of memory for %d blocks", len(s.Memory), len(s.Layout.Blocks))
	}
	if s.Base == nil {
		s.Base = make([]*Base, len(s.Memory))
	}
	s.Stored, s.written = nil, nil
	for i, b := range s.Layout.Blocks {
		s.Progress.Total.Add(b.Length)
		s.Stored = append(s.Stored, mappedram.NewBitmap(b.Pages()))
		s.written = append(s.written, mappedram.NewBitmap(b.Pages()))
		if base := s.Base[i]; base != nil {
			if err := base.prepare(b, s.Memory[i]); err != nil {
				return err
			}
		}
	}
	if s.Live && s.Sums != nil {
		s.key, s.onFile = newMarkKey(), s.Sums.marks()
	}
	if s.Limit == nil {
		s.Limit = NewLimit(s.Params.MaxBandwidth)
	}
	return nil
}

// stretchBits has a bit for each page of a stretch.
type stretchBits [stretchPages / 64]uint64

// expected returns the pages of a stretch that the image would have to give up if memory had none of them: those that
// are stored, or written, or that the base stores.
func (s *Save) expected(block int, number int64) (bits stretchBits) {
	add := func(b mappedram.Bitmap) {
		if at := number * int64(len(bits)); at < int64(len(b)) {
			for i, w := range b[at:min(at+int64(len(bits)), int64(len(b)))] {
				bits[i] |= w
			}
		}
	}
	add(s.Stored[block])
	add(s.written[block])
	if b := s.Base[block]; b != nil && b.Sums != nil {
		add(b.Stored)
	}
	return bits
}

func (s *Save) save(ctx context.Context, c *channel, j job) error {
	p := plan{Save: s, ctx: ctx, c: c, block: j.block}
	bits := s.expected(j.block, j.stretch)
	rest := mappedram.Bitmap(bits[:])
	for _, r := range j.ranges {
		first := r.Start % stretch / guestmem.PageSize
		for i := first; i < first+r.Len()/guestmem.PageSize; i++ {
			rest.Clear(i)
		}
	}
	var err error
	for ranges := j.ranges; len(ranges) > 0 && err == nil; {
		if n := p.batch(ranges); n > 1 {
			err = p.scanBatch(ranges[:n])
			ranges = ranges[n:]
			continue
		}
		err = p.scanRange(ranges[0])
		ranges = ranges[1:]
	}
	if err == nil {
		err = p.handleAbsent(j.stretch*stretchPages, rest)
	}
	if err == nil {
		err = p.flush(j.stretch * stretchPages)
	}
	if err != nil {
		return fmt.Errorf("block %s: %w", s.Layout.Blocks[j.block].Name, err)
	}
	return nil
}

// Holes is how many pages, after the last Run, are stored as holes: zero, and not so in the base.
func (s *Save) Holes() int64 {
	var n int64
	for i, stored := range s.Stored {
		n += stored.Count() - s.written[i].Count()
	}
	return n
}
