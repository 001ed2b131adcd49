// SPDX-License-Identifier: Apache-2.0

// Package image writes images: everything but the pages, which the engine or their owner writes.
package image

import (
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Writer writes an image whose pages are in its file, or are being written there: headers, bitmaps, device state, the
// magic that makes the file an image, and the seal. Its methods are called in the order Rest, Magic, Seal, by one goroutine,
// when the pages' bitmaps are final. It syncs nothing.
type Writer struct {
	To     io.WriterAt // new, or truncated to Layout.Offset: what is not written has to read as zero
	Layout *mappedram.Layout
	// Stored says which pages the image has, by block; not looked at for a block that is ignored. A nil bitmap of another
	// block says that the image has none of its pages.
	Stored      []mappedram.Bitmap
	Sums        *transfer.Sums // of the stored pages; only Sealed needs them
	Sections    []byte         // device state, as vmstate.DeviceSections gives it
	Description []byte         // of the device state, in JSON; nil: none

	end int64 // of the stream, after Rest
}

// Rest writes headers, bitmaps and device state, and returns the offset behind the stream. The file is no image yet.
func (w *Writer) Rest() (end int64, err error) {
	if err := w.Layout.WriteHeaders(w.To); err != nil {
		return 0, err
	}
	for i, b := range w.Layout.Blocks {
		if b.Ignored || w.Stored[i] == nil {
			continue // a bitmap that is not written reads as zeros
		}
		if err := w.Layout.WriteBitmap(w.To, i, w.Stored[i]); err != nil {
			return 0, err
		}
	}
	w.end, err = w.Layout.WriteTail(w.To, w.Sections, w.Description)
	return w.end, err
}

// Magic writes the first eight bytes, which make the file an image.
func (w *Writer) Magic() error { return w.Layout.WriteMagic(w.To) }

// Unsealed writes all but the pages and no seal.
func (w *Writer) Unsealed() error {
	if _, err := w.Rest(); err != nil {
		return err
	}
	return w.Magic()
}

// Sealed writes all but the pages, with a seal of the metadata m, whose StreamHash it fills in
// (m.Blocks is the caller's, see Blocks), and of the sums of all stored pages.
func (w *Writer) Sealed(m *seal.Metadata) (id seal.ID, err error) {
	if err := w.Unsealed(); err != nil {
		return id, err
	}
	bitmap := func(i int) (mappedram.Bitmap, error) { return w.Stored[i], nil }
	if m.StreamHash, err = w.Layout.StreamHash(bitmap, w.Sections, w.Description); err != nil {
		return id, err
	}
	return Seal(w.To, w.end, m, w.Stored, w.Sums)
}

// Seal puts metadata and the stored pages' sums behind a stream that ends at end. m.Blocks has the stream's blocks.
func Seal(to io.WriterAt, end int64, m *seal.Metadata, stored []mappedram.Bitmap, sums *transfer.Sums) (id seal.ID, err error) {
	sw, err := seal.NewWriter(to, end, m)
	if err != nil {
		return id, err
	}
	for i, b := range m.Blocks {
		if err := sums.Each(i, stored[i], b.Length/b.PageSize, sw.AppendSums); err != nil {
			return id, err
		}
	}
	if id, _, err = sw.Close(); err != nil {
		err = fmt.Errorf("cannot seal the image: %w", err)
	}
	return id, err
}

// Blocks describes blocks and what is stored of them for a seal.
func Blocks(blocks []mappedram.Block, stored []mappedram.Bitmap) (all []seal.Block) {
	for i, b := range blocks {
		all = append(all, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: stored[i].Count()})
	}
	return all
}
