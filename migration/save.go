// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// Save writes memory's pages into the page areas of an image.
type Save struct {
	Layout *mappedram.Layout
	Memory []guestmem.Memory // as many as Layout has blocks, of their lengths
	Image  directio.Opener
	Params Params
	Sums   *Sums // gets the sum of each page written; nil: none are wanted

	Stored   []mappedram.Bitmap // the result: which pages of each block are in the image
	Progress Progress

	limit limiter
}

// Run does it. The image's page areas must be holes before: a page that is zero is not
// written. When Run fails the image is worthless, the memory is as it was.
func (s *Save) Run(ctx context.Context) (err error) {
	if len(s.Memory) != len(s.Layout.Blocks) {
		return fmt.Errorf("%d pieces of memory for %d blocks", len(s.Memory), len(s.Layout.Blocks))
	}
	s.Stored = nil
	for _, b := range s.Layout.Blocks {
		s.Progress.Total.Add(b.Length)
		s.Stored = append(s.Stored, mappedram.NewBitmap(b.Pages()))
	}
	s.limit = newLimiter(s.Params.MaxBandwidth)
	channels, err := openChannels(s.Image, os.O_WRONLY, s.Params)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeChannels(channels)) }()
	return run(ctx, channels, s.produce, s.save)
}

// produce walks the populated parts of all blocks.
func (s *Save) produce(emit func(job) error) error {
	var before int64
	for i, m := range s.Memory {
		all := guestmem.Range{End: m.Size()}
		for ranges, err := range guestmem.Stretches(m.Populated(all), stretch) {
			if err == nil {
				s.Progress.Passed.Store(before + ranges[0].Start)
				err = emit(job{i, ranges})
			}
			if err != nil {
				return err
			}
		}
		before += m.Size()
	}
	s.Progress.Passed.Store(before)
	return nil
}

func (s *Save) save(ctx context.Context, c *channel, j job) error {
	for _, r := range j.ranges {
		if err := s.saveRange(ctx, c, j.block, r); err != nil {
			return fmt.Errorf("block %s: %w", s.Layout.Blocks[j.block].Name, err)
		}
	}
	return nil
}

// saveRange writes each run of neighbouring pages that are not zero with one write.
func (s *Save) saveRange(ctx context.Context, c *channel, block int, r guestmem.Range) error {
	mem := s.Memory[block]
	p, err := mem.View(r, c.buf)
	if err != nil {
		return err
	}
	defer mem.Release(r)
	for at := int64(0); at < r.Len(); {
		zeros, data := nextRun(p[at:])
		s.Progress.Zero.Add(zeros / guestmem.PageSize)
		at += zeros
		if data > 0 {
			if err := s.saveRun(ctx, c, block, r.Start+at, p[at:at+data]); err != nil {
				return err
			}
		}
		at += data
	}
	s.Progress.Pages.Add(r.Len() / guestmem.PageSize)
	return nil
}

// nextRun measures in bytes the zero pages at the front of p and the others that follow them.
func nextRun(p []byte) (zeros, data int64) {
	n := int64(len(p))
	for zeros < n && guestmem.IsZero(p[zeros:zeros+guestmem.PageSize]) {
		zeros += guestmem.PageSize
	}
	end := zeros
	for end < n && !guestmem.IsZero(p[end:end+guestmem.PageSize]) {
		end += guestmem.PageSize
	}
	return zeros, end - zeros
}

func (s *Save) saveRun(ctx context.Context, c *channel, block int, off int64, p []byte) error {
	first, pages := off/guestmem.PageSize, int64(len(p))/guestmem.PageSize
	if s.Sums != nil {
		if err := s.Sums.Add(block, first, p); err != nil {
			return err
		}
	}
	if err := s.limit.write(ctx, c.file, p, s.Layout.Blocks[block].PagesOffset+off); err != nil {
		return err
	}
	s.Stored[block].SetRange(first, first+pages)
	s.Progress.Stored.Add(pages)
	s.Progress.Bytes.Add(int64(len(p)))
	return nil
}
