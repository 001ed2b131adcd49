// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// An image is written in this order, or any other with WriteMagic last: WriteHeaders, pages at their offsets, WriteBitmap
// for each block, WriteTail, WriteMagic. Until then the file has no magic and nothing takes it for an image. The file
// must be new or truncated to Offset: what is between the parts is not written and has to read as zero.

// WriteHeaders writes the stream's header and that of each block, except for the first eight bytes, which WriteMagic
// writes.
func (l *Layout) WriteHeaders(w io.WriterAt) error {
	head := l.head()
	if len(l.Blocks) > 0 {
		head = append(head, l.blockHeader(l.Blocks[0])...)
	}
	if err := writeAt(w, head[vmstate.MagicSize:], l.Offset+vmstate.MagicSize, "header"); err != nil {
		return err
	}
	for _, b := range l.Blocks[min(1, len(l.Blocks)):] {
		if err := writeAt(w, l.blockHeader(b), b.HeaderOffset, "header of block "+b.Name); err != nil {
			return err
		}
	}
	return nil
}

// bitmapChunk is the number of words of a bitmap that are encoded, decoded or hashed at a time: 256 KiB.
const bitmapChunk = 32 << 10

// WriteBitmap writes the bitmap of block i. It must have exactly the block's pages.
func (l *Layout) WriteBitmap(w io.WriterAt, i int, b Bitmap) error {
	block := l.Blocks[i]
	if err := block.checkBitmap(b); err != nil {
		return err
	}
	at := block.BitmapOffset
	return b.chunks(func(raw []byte) error {
		err := writeAt(w, raw, at, "bitmap of block "+block.Name)
		at += int64(len(raw))
		return err
	})
}

// checkBitmap refuses a bitmap of another length, or with bits set behind the block's end.
func (b Block) checkBitmap(m Bitmap) error {
	if b.Ignored {
		return fmt.Errorf("block %q is not in the image and has no bitmap", b.Name)
	}
	if int64(len(m))*8 != b.BitmapSize() {
		return fmt.Errorf("block %q has %d pages, its bitmap %d words", b.Name, b.Pages(), len(m))
	}
	if n := b.Pages() % 64; n != 0 && m[len(m)-1]>>n != 0 {
		return fmt.Errorf("the bitmap of block %q has bits set behind its %d pages", b.Name, b.Pages())
	}
	return nil
}

// chunks calls f with the bitmap's bytes, piece by piece.
func (b Bitmap) chunks(f func(raw []byte) error) error {
	raw := make([]byte, 8*min(len(b), bitmapChunk))
	for len(b) > 0 {
		n := min(len(b), bitmapChunk)
		b[:n].encode(raw)
		if err := f(raw[:8*n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// WriteTail writes what follows the pages: the end of memory, the devices' FULL sections as vmstate.DeviceSections
// gives them, the end, and unless it is nil the description. end is the offset behind it, where the stream ends and
// where the file has to end or the seal to begin.
//
// The command SWITCHOVER_START, which QEMU 10 puts before the end of memory, is left out: it means something to a
// destination that talks back, and QEMU loads a file without it.
func (l *Layout) WriteTail(w io.WriterAt, sections, description []byte) (end int64, err error) {
	t := l.tail(sections, description)
	if err := writeAt(w, t, l.RAMEnd, "device state"); err != nil {
		return 0, err
	}
	return l.RAMEnd + int64(len(t)), nil
}

func (l *Layout) tail(sections, description []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, vmstate.RAMEndOfSection)
	b = vmstate.AppendFooter(b, l.SectionID)
	b = append(b, l.Setup...)
	b = vmstate.AppendSectionPart(b, vmstate.TypeEnd, l.SectionID)
	b = binary.BigEndian.AppendUint64(b, vmstate.RAMEndOfSection)
	b = vmstate.AppendFooter(b, l.SectionID)
	b = append(b, sections...)
	return vmstate.AppendEnd(b, description)
}

// WriteMagic writes the first eight bytes of the stream, which make the file an image. Everything else must be written,
// and should be synced, before.
func (l *Layout) WriteMagic(w io.WriterAt) error {
	m := vmstate.Magic()
	return writeAt(w, m[:], l.Offset, "first bytes")
}

func writeAt(w io.WriterAt, b []byte, at int64, what string) error {
	n, err := w.WriteAt(b, at)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("cannot write the image's %s at offset %d: %w", what, at, err)
	}
	return nil
}
