// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Image is an image that was opened: all its headers are checked, its pages and bitmaps are not read yet. Its methods
// may be called from several goroutines at once if the reader's ReadAt may.
type Image struct {
	*Layout
	// Format says who wrote it: "ramjet", "qemu" or "libvirt".
	Format     string
	FileSize   int64
	TailOffset int64 // what follows the pages; the same as RAMEnd
	StreamEnd  int64 // where the stream ends: the seal begins here, or the file ends
	// Complete is false for an image that Open returned together with ErrIncomplete.
	Complete bool
	Seal     *seal.Seal // nil if not sealed
	// Unfinished: a seal begins at StreamEnd and does not end. The stream before it is whole; Open returns ErrIncomplete
	// all the same.
	Unfinished bool
	Libvirt    *Libvirt // libvirt's header before the stream, or nil

	SectionsOffset, SectionsLength       int64 // the devices' FULL sections
	DescriptionOffset, DescriptionLength int64 // the JSON that describes them; length 0 without one

	r io.ReaderAt
}

// Bitmap reads the bitmap of block i: an eighth of a byte for each page, all of it in memory. ErrDamaged if it has bits
// behind the block's end.
func (m *Image) Bitmap(i int) (Bitmap, error) {
	return m.BitmapPart(i, 0, m.Blocks[i].Pages())
}

// BitmapPart reads the bits of the pages first to first+pages-1 of block i; first is a multiple of 64. Bit 0 of the
// result is page first.
func (m *Image) BitmapPart(i int, first, pages int64) (Bitmap, error) {
	block := m.Blocks[i]
	if block.Ignored {
		return nil, fmt.Errorf("block %q is not in the image and has no bitmap", block.Name)
	}
	if first < 0 || first%64 != 0 || pages < 0 || pages > block.Pages()-first {
		return nil, fmt.Errorf("block %q has no pages %d to %d in its bitmap", block.Name, first, first+pages)
	}
	b := NewBitmap(pages)
	raw := make([]byte, 8*min(len(b), bitmapChunk))
	at := block.BitmapOffset + first/8
	for rest := b; len(rest) > 0; {
		n := min(len(rest), bitmapChunk)
		if err := readAt(m.r, raw[:8*n], at); err != nil {
			return nil, fmt.Errorf("bitmap of block %q: %w", block.Name, err)
		}
		rest[:n].decode(raw[:8*n])
		at, rest = at+int64(8*n), rest[n:]
	}
	if n := pages % 64; n != 0 {
		if first+pages == block.Pages() && b[len(b)-1]>>n != 0 {
			return nil, fmt.Errorf("%w: the bitmap of block %q has bits set behind its %d pages", ErrDamaged, block.Name, block.Pages())
		}
		b[len(b)-1] &= mask(0, n)
	}
	return b, nil
}

// StoredPages counts the pages of block i that are stored, in bounded memory.
func (m *Image) StoredPages(i int) (int64, error) {
	block := m.Blocks[i]
	var n int64
	if block.Ignored {
		return 0, nil
	}
	for first := int64(0); first < block.Pages(); first += 64 * bitmapChunk {
		b, err := m.BitmapPart(i, first, min(64*bitmapChunk, block.Pages()-first))
		if err != nil {
			return 0, err
		}
		n += b.Count()
	}
	return n, nil
}

// Empty reports whether no page at all is stored. Of a whole VM that is never so: its firmware is not zero. QEMU writes
// such files, and reports success, when mapped-ram meets background-snapshot; restored, the VM has lost its memory.
func (m *Image) Empty() (bool, error) {
	for i := range m.Blocks {
		n, err := m.StoredPages(i)
		if err != nil || n > 0 {
			return false, err
		}
	}
	return true, nil
}

// DeviceSections reads the devices' FULL sections, and nothing else, as Layout.WriteTail takes them.
func (m *Image) DeviceSections() ([]byte, error) {
	if !m.Complete && !m.Unfinished {
		return nil, fmt.Errorf("%w: it has no device state", ErrIncomplete)
	}
	if m.SectionsLength > vmstate.MaxDeviceState {
		return nil, fmt.Errorf("%w: %d bytes of device state", ErrDamaged, m.SectionsLength)
	}
	return m.read(m.SectionsOffset, m.SectionsLength, "device state")
}

// Description reads QEMU's description of the device state, JSON; nil if the image has none. vmstate.ParseDescription
// takes it apart.
func (m *Image) Description() ([]byte, error) {
	if m.DescriptionLength == 0 {
		return nil, nil
	}
	return m.read(m.DescriptionOffset, m.DescriptionLength, "description")
}

// read reads a part of the file piece by piece, so that a length which is not backed by data takes no memory.
func (m *Image) read(at, n int64, what string) ([]byte, error) {
	b, err := io.ReadAll(io.NewSectionReader(m.r, at, n))
	if err == nil && int64(len(b)) < n {
		err = fmt.Errorf("%w: the file ends at offset %d", ErrIncomplete, at+int64(len(b)))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}

// readAt reads all of b; the end of the file is an incomplete image.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, ended, err := sys.ReadAll(r, b, at)
	if ended {
		return fmt.Errorf("%w: the file ends at offset %d", ErrIncomplete, at+int64(n))
	}
	if err != nil {
		return fmt.Errorf("cannot read the image at offset %d: %w", at, err)
	}
	return nil
}
