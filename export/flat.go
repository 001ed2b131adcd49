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

// flat writes one whole image of a diff and its base. Of an image that is whole already it writes another with the same
// memory that stores no zero pages.
func (e *export) flat(ctx context.Context) (err error) {
	w, err := e.writer()
	if err != nil {
		return fmt.Errorf("%s: %w", e.Image, err)
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
	return e.file(e.Out, "", w.Layout.RAMEnd, func(f *directio.File) error {
		if shared, err := e.share(ctx, w, f, blocks); shared || err != nil {
			if err != nil {
				return err
			}
			return e.finish(w, f)
		}
		// Pages come in stretches, each from one goroutine, so no two set bits in one word.
		err := e.copy(ctx, blocks, func(block int, off int64, p []byte) error {
			first := off / mappedram.PageSize
			if err := w.Sums.Add(block, first, p); err != nil {
				return err
			}
			w.Stored[block].SetRange(first, first+int64(len(p))/mappedram.PageSize)
			_, err := f.WriteAt(p, w.Layout.Blocks[block].PagesOffset+off)
			return err
		})
		if err != nil {
			return err
		}
		return e.finish(w, f)
	})
}

// finish writes all but the pages.
func (e *export) finish(w *image.Writer, f *directio.File) error {
	w.To = f
	m := e.metadata()
	m.Blocks = image.Blocks(w.Layout.Blocks, w.Stored)
	id, err := w.Sealed(m)
	e.result.ID = id.String()
	return err
}

// writer lays the new image out.
func (e *export) writer() (*image.Writer, error) {
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
	f, err := image.Scratch(e.scratchDir())
	if err != nil {
		return nil, err
	}
	w.Sums = transfer.NewSums(f, l.Blocks)
	return w, nil
}

// metadata is what the new image says of where it came from: the moment of the old one, and no base.
func (e *export) metadata() *seal.Metadata {
	m := &seal.Metadata{Created: time.Now().UTC(), MachineType: e.image.Config.MachineType}
	if s := e.image.Seal; s != nil {
		*m = s.Metadata
		m.Base, m.Blocks = nil, nil
	}
	m.Format, m.RamjetVersion, m.StreamOffset = "ramjet", image.VersionString(), 0
	return m
}
