// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// putFunc takes neighbouring pages of a block, whose first byte is at off in the block. It is called from several goroutines at a time.
type putFunc func(block int, off int64, pages []byte) error

// eachPage calls put with every page of the blocks that is not zero, once. Pages of a sealed image are checked first.
func (e *export) eachPage(ctx context.Context, blocks []int, put putFunc) error {
	for _, img := range []*image.File{e.image.Base, e.image.File} {
		if img == nil {
			continue
		}
		if err := e.eachPageOf(ctx, img, blocks, put); err != nil {
			return err
		}
	}
	return nil
}

// eachPageOf calls put with the pages that come from one of the two files, the image or its base.
func (e *export) eachPageOf(ctx context.Context, img *image.File, blocks []int, put putFunc) error {
	check := &image.PageCheck{Image: img.Image, Bad: image.RefuseBad}
	l := &transfer.Load{Image: img.Reopen()}
	var of []int // of each part of the load, its block
	for _, i := range blocks {
		sources, err := e.image.Sources(i)
		if err != nil {
			return err
		}
		for _, s := range sources {
			if s.Image == img {
				l.Blocks = append(l.Blocks, s.Part(check))
				of = append(of, i)
			}
		}
	}
	l.Sink = func(part int, first int64, pages []byte) error {
		if img.Seal != nil {
			if err := check.Check(part, first, pages); err != nil {
				return err
			}
		}
		return nonZero(pages, func(at int64, p []byte) error {
			return put(of[part], first*mappedram.PageSize+at, p)
		})
	}
	io, err := directio.Chooser{Mode: e.o.Direct}.Choose(l.Image, os.O_RDONLY)
	if err != nil {
		return err
	}
	l.Params = transfer.Params{Channels: e.o.Channels, Direct: io.Direct, Cached: io.Cached}
	e.o.Progress.SetPhase("exporting")
	defer e.o.Progress.Follow(&l.Progress)()
	if err := l.Run(ctx); err != nil {
		return fmt.Errorf("%s: %w", img.Path, err)
	}
	return nil
}

// nonZero calls f with each run of pages that are not zero.
func nonZero(pages []byte, f func(at int64, p []byte) error) error {
	for at := 0; at < len(pages); {
		end := at
		for end < len(pages) && !guestmem.IsZero(pages[end:end+mappedram.PageSize]) {
			end += mappedram.PageSize
		}
		if end == at {
			at += mappedram.PageSize
			continue
		}
		if err := f(int64(at), pages[at:end]); err != nil {
			return err
		}
		at = end
	}
	return nil
}
