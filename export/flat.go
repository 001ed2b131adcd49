// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// writeFlat writes one whole image of a diff and its base. Of an image that is whole already it writes another with the same
// memory, which stores no zero pages.
func writeFlat(ctx context.Context, e *export) (err error) {
	w, err := flatWriter(e)
	if err != nil {
		return fmt.Errorf("%s: %w", e.o.Image, err)
	}
	defer func() { err = errors.Join(err, w.Sums.Close()) }()
	var blocks []int
	for i, b := range e.image.Blocks {
		if b.Ignored {
			e.result.LeftOut = append(e.result.LeftOut, b.Name)
			w.Stored = append(w.Stored, nil)
			continue
		}
		blocks = append(blocks, i)
		w.Stored = append(w.Stored, mappedram.NewBitmap(b.Pages()))
	}
	return e.file(e.o.Out, "", w.Layout.RAMEnd, func(f *directio.File) error {
		shared, err := sharePages(ctx, e, w, f, blocks)
		if err == nil && !shared {
			err = copyPages(ctx, e, w, f, blocks)
		}
		if err != nil {
			return err
		}
		w.To = f
		m := flatMetadata(e.image)
		m.Blocks = image.Blocks(w.Layout.Blocks, w.Stored)
		id, err := w.Sealed(m)
		e.result.ID = id.String()
		return err
	})
}

// copyPages copies the pages into the new image. The engine gives each stretch of pages to one goroutine, so no two goroutines set bits
// of one word.
func copyPages(ctx context.Context, e *export, w *image.Writer, to *directio.File, blocks []int) error {
	return e.eachPage(ctx, blocks, func(block int, off int64, p []byte) error {
		first := off / mappedram.PageSize
		if err := w.Sums.Add(block, first, p); err != nil {
			return err
		}
		w.Stored[block].SetRange(first, first+int64(len(p))/mappedram.PageSize)
		_, err := to.WriteAt(p, w.Layout.Blocks[block].PagesOffset+off)
		return err
	})
}

// flatWriter lays the new image out.
func flatWriter(e *export) (*image.Writer, error) {
	var blocks []mappedram.Block
	for _, b := range e.image.Blocks {
		blocks = append(blocks, mappedram.Block{Name: b.Name, Length: b.Length, Ignored: b.Ignored, GuestAddress: b.GuestAddress})
	}
	l, err := mappedram.Like(e.image.Layout, blocks)
	if err != nil {
		return nil, err
	}
	w := &image.Writer{Layout: l}
	if w.Sections, err = e.image.DeviceSections(); err != nil {
		return nil, err
	}
	if w.Description, err = e.image.Description(); err != nil {
		return nil, err
	}
	f, err := image.Scratch(e.scratchDir(), nil)
	if err != nil {
		return nil, err
	}
	w.Sums = transfer.NewSums(f, l.Blocks, nil)
	return w, nil
}

// flatMetadata is the metadata of the image with its base taken in: the moment is the image's, and it has no base.
func flatMetadata(img *image.Image) *seal.Metadata {
	m := &seal.Metadata{Created: time.Now().UTC(), MachineType: img.Config.MachineType}
	if s := img.Seal; s != nil {
		*m = s.Metadata
		m.Base, m.Blocks = nil, nil
	}
	m.Format, m.RamjetVersion, m.StreamOffset = "ramjet", image.VersionString(), 0
	return m
}
