// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// SumWindow bounds a window, in pages: 256 MiB of memory, 512 KiB of sums.
const SumWindow = 1 << 16

// PageSums gives out the sums of all pages of an image, stored or not, one window after another: from the image's seal or, if it has none,
// by reading the pages. A page that is not stored is zero or the base's. It is used by one goroutine.
type PageSums struct {
	Image  *File
	Base   *PageSums // of a diff
	params transfer.Params
	rank   []int64 // of each block, how many stored pages come before the next window
}

// NewPageSums is for an image whose seal holds (VerifyStream). base is nil for one that builds on none.
func NewPageSums(image, base *File) (*PageSums, error) {
	p := &PageSums{Image: image, rank: make([]int64, len(image.Blocks))}
	if base != nil {
		var err error
		if p.Base, err = NewPageSums(base, nil); err != nil {
			return nil, err
		}
	}
	io, err := directio.Chooser{Calls: image.Calls}.Choose(image.Reopen(), os.O_RDONLY)
	p.params.Direct, p.params.Cached = io.Direct, io.Cached
	return p, err
}

// Window fills sums, which has at most SumWindow elements, with the sums of a block's pages from first on. The windows of a block are
// asked for in order.
func (p *PageSums) Window(ctx context.Context, block int, first int64, sums []uint64) error {
	for i := range sums {
		sums[i] = transfer.ZeroSum
	}
	if p.Base != nil && p.Image.BuildsOnBase(block) {
		if err := p.Base.own(ctx, p.Base.Image.Index(p.Image.Blocks[block].Name), first, sums); err != nil {
			return err
		}
	}
	return p.own(ctx, block, first, sums)
}

// own writes the sums of the pages that the image itself stores into sums.
func (p *PageSums) own(ctx context.Context, block int, first int64, sums []uint64) error {
	stored, err := p.Image.BitmapPart(block, first, int64(len(sums)))
	if err != nil {
		return err
	}
	if p.Image.Seal == nil {
		return p.read(ctx, block, first, stored, sums)
	}
	for start, end := range stored.Runs(int64(len(sums))) {
		s, err := p.Image.Seal.Sums(block, int(p.rank[block]), int(end-start))
		if err != nil {
			return err
		}
		copy(sums[start:], s)
		p.rank[block] += end - start
	}
	return nil
}

// read computes the sums of stored pages.
func (p *PageSums) read(ctx context.Context, block int, first int64, stored mappedram.Bitmap, sums []uint64) error {
	if stored.Count() == 0 {
		return nil
	}
	b := p.Image.Blocks[block]
	b.PagesOffset += first * b.PageSize
	b.Length = int64(len(sums)) * b.PageSize
	l := &transfer.Load{
		Blocks: []transfer.LoadBlock{{Block: b, Stored: stored}},
		Image:  p.Image.Reopen(), Params: p.params,
		Sink: func(_ int, first int64, pages []byte) error {
			for i := 0; i < len(pages); i += mappedram.PageSize {
				sums[first+int64(i/mappedram.PageSize)] = seal.PageSum(pages[i : i+mappedram.PageSize])
			}
			return nil
		},
	}
	return l.Run(ctx)
}
