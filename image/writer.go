// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Writer writes everything of an image but its pages: headers, bitmaps, device state, the magic that makes the file an image, and the
// seal. The engine, or whoever has the pages, writes those into the same file. The methods are called by one goroutine, when the
// bitmaps are final: Sealed, Unsealed, or Rest and then Magic. A Writer syncs nothing.
type Writer struct {
	To     io.WriterAt // new, or truncated to Layout.Offset: what is not written has to read as zero
	Layout *mappedram.Layout
	// Stored are the pages that the image has, by block. A block with a nil bitmap has none; those of ignored blocks are not looked at.
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

// Blocks describes blocks for a seal, with the pages stored of each.
func Blocks(blocks []mappedram.Block, stored []mappedram.Bitmap) (all []seal.Block) {
	for i, b := range blocks {
		all = append(all, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: stored[i].Count()})
	}
	return all
}

// Version is Ramjet's version, which seals record. Commit is the commit of the source and CommitTime that commit's time (RFC 3339). The
// build sets all three (-ldflags -X).
var (
	Version    = ""
	Commit     = ""
	CommitTime = ""
)

// VersionString is Version or, in a build without one, the module's version that the Go tool recorded.
func VersionString() string {
	if Version != "" {
		return Version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}
