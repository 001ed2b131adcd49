// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// readHeaders reads the stream's header and all blocks' headers at Offset, and checks them against each other and the
// end of the stream.
func (m *Image) readHeaders() error {
	at, total, err := m.readStart(m.r, m.StreamEnd)
	if err != nil {
		return err
	}
	names := make(map[string]bool)
	for left := total; left > 0; {
		if len(m.Blocks) == MaxBlocks {
			return fmt.Errorf("%w: more than %d blocks of memory", ErrDamaged, MaxBlocks)
		}
		b, next, err := m.readBlock(at, left)
		if err != nil {
			return err
		}
		if names[b.Name] {
			return fmt.Errorf("%w: two blocks of memory have the name %q", ErrDamaged, b.Name)
		}
		names[b.Name] = true
		m.Blocks = append(m.Blocks, b)
		at, left = next, left-b.Length
	}
	m.RAMEnd = at
	return nil
}

// readStart reads from Offset to the first block's name, whose offset it returns with the sum of the blocks' lengths.
func (l *Layout) readStart(r io.ReaderAt, end int64) (at, total int64, err error) {
	in := bufio.NewReader(io.NewSectionReader(r, l.Offset, max(0, end-l.Offset)))
	c, n, err := vmstate.ReadHeader(in)
	if err != nil {
		return 0, 0, streamError(err)
	}
	l.Config = c
	at = l.Offset + n
	if err := l.readEarly(in); err != nil {
		return 0, 0, err
	}
	at += int64(len(l.Early))
	b, err := in.Peek(len(ramStart) + 5 + 8)
	if err != nil {
		return 0, 0, peekError(err, at)
	}
	l.SectionID = binary.BigEndian.Uint32(b[1:])
	if !c.Has(capMappedRAM) {
		return 0, 0, fmt.Errorf("%w, so its pages have no fixed place; save the VM again with QEMU's migration capability mapped-ram on, or with ramjet save", ErrPlainStream)
	}
	value := binary.BigEndian.Uint64(b[len(b)-8:])
	total = int64(value &^ flagMask)
	if value&flagMask != flagSize || total <= 0 {
		return 0, 0, fmt.Errorf("%w: memory begins with the flags %#x at offset %d", ErrDamaged, value, at+int64(len(b))-8)
	}
	return at + int64(len(b)), total, nil
}

// ramStart is the head of START(ram) behind type and id: name, instance, version.
var ramStart = append([]byte("\x03"+vmstate.RAMName), 0, 0, 0, 0, 0, 0, 0, vmstate.RAMVersion)

// readEarly leaves in at START(ram) and keeps what is before it. Those sections are of unknown length, so the start is
// sought.
func (l *Layout) readEarly(in *bufio.Reader) error {
	var early []byte
	for {
		b, err := in.Peek(5 + len(ramStart))
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(b) < 5+len(ramStart) {
			break
		}
		if b[0] == vmstate.TypeStart && bytes.Equal(b[5:], ramStart) && (len(early) == 0 || footerBefore(early)) {
			l.Early = early
			return nil
		}
		if len(early) == 0 {
			if err := plausibleStart(b); err != nil {
				return err
			}
		}
		if len(early) == MaxEarly {
			break
		}
		early = append(early, b[0])
		in.Discard(1) // was peeked
	}
	if len(early) == 0 {
		return fmt.Errorf("%w: it ends behind its configuration", ErrIncomplete)
	}
	return fmt.Errorf("%w: no section %q, version %d, begins in the %d bytes behind its configuration", ErrDamaged, vmstate.RAMName, vmstate.RAMVersion, len(early))
}

// footerBefore reports whether a section or a command may end at the end of early.
func footerBefore(early []byte) bool {
	return len(early) >= vmstate.FooterSize && (early[len(early)-vmstate.FooterSize] == vmstate.TypeFooter || early[0] == vmstate.TypeCommand)
}

// plausibleStart refuses what cannot follow the configuration.
func plausibleStart(b []byte) error {
	switch b[0] {
	case vmstate.TypeFull, vmstate.TypeStart, vmstate.TypeCommand:
		if n := 1 + len(vmstate.RAMName); b[0] == vmstate.TypeStart && bytes.Equal(b[5:5+n], ramStart[:n]) {
			return fmt.Errorf("%w: its section %q has instance and version %x", ErrDamaged, vmstate.RAMName, b[5+n:])
		}
		return nil
	}
	return fmt.Errorf("%w: byte %#02x behind its configuration", ErrDamaged, b[0])
}

func peekError(err error, at int64) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends behind offset %d", ErrIncomplete, at)
	}
	return err
}

// readBlock reads the header at offset at of a block of at most left bytes, and returns where the next one is.
func (m *Image) readBlock(at, left int64) (b Block, next int64, err error) {
	raw := make([]byte, min(1+255+8+8+headerSize, max(0, m.StreamEnd-at)))
	if err := readAt(m.r, raw, at); err != nil {
		return b, 0, err
	}
	b.HeaderOffset = at
	p := 1 + 8 + headerSize // what is needed besides the name
	if m.Config.Has(capIgnoreShared) {
		p += 8
	}
	if len(raw) < 1 || len(raw) < p+int(raw[0]) {
		return b, 0, fmt.Errorf("%w: it ends in the header of a block at offset %d", ErrIncomplete, at)
	}
	name := raw[1 : 1+int(raw[0])]
	if !validName(name) {
		return b, 0, m.notABlock(raw, at, left)
	}
	b.Name = string(name)
	raw = raw[1+len(name):]
	length := binary.BigEndian.Uint64(raw)
	raw = raw[8:]
	if m.Config.Has(capIgnoreShared) {
		b.GuestAddress = binary.BigEndian.Uint64(raw)
		raw = raw[8:]
	}
	switch {
	case length > uint64(left):
		return b, 0, fmt.Errorf("%w: block %q has %d bytes, more than the %d that are left of the sum of all blocks", ErrDamaged, b.Name, length, left)
	case length == 0:
		return b, 0, fmt.Errorf("%w: block %q has no bytes", ErrDamaged, b.Name)
	case length > MaxBlockLength:
		return b, 0, fmt.Errorf("%w: block %q has %d bytes, more than %d", ErrUnsupported, b.Name, length, int64(MaxBlockLength))
	}
	b.Length = int64(length)
	next = at + int64(p) + int64(len(name))
	if err := b.readHeader(raw, m.Config.Has(capIgnoreShared)); err != nil || b.Ignored {
		return b, next, err
	}
	return b, b.PagesEnd(), b.checkPlace(next, m.StreamEnd)
}

// notABlock explains bytes that are no block's header: mostly the end of memory where the sum promised more.
func (m *Image) notABlock(raw []byte, at, left int64) error {
	switch {
	case binary.BigEndian.Uint64(raw) == vmstate.RAMEndOfSection:
		return fmt.Errorf("%w: the blocks of memory end at offset %d, %d bytes short of the sum of their lengths", ErrDamaged, at, left)
	case bytes.Equal(raw, make([]byte, len(raw))):
		return fmt.Errorf("%w: nothing was written at offset %d, where a block of memory should begin", ErrIncomplete, at)
	}
	return fmt.Errorf("%w: the block of memory at offset %d has the name %q", ErrDamaged, at, raw[1:1+min(int(raw[0]), 64)])
}

// readHeader reads the 28 bytes of a mapped-ram header.
func (b *Block) readHeader(raw []byte, mayIgnore bool) error {
	version := binary.BigEndian.Uint32(raw)
	pageSize := binary.BigEndian.Uint64(raw[4:])
	bitmap, pages := binary.BigEndian.Uint64(raw[12:]), binary.BigEndian.Uint64(raw[20:])
	switch {
	case version > HeaderVersion:
		return fmt.Errorf("%w: block %q has a mapped-ram header of version %d, this program knows %d; use a newer ramjet", ErrNewer, b.Name, version, HeaderVersion)
	case version == 0:
		return fmt.Errorf("%w: block %q has a mapped-ram header of version 0", ErrDamaged, b.Name)
	case pageSize == 0 || pageSize&(pageSize-1) != 0:
		return fmt.Errorf("%w: block %q has pages of %d bytes, which is no power of two", ErrDamaged, b.Name, pageSize)
	case pageSize != PageSize:
		return fmt.Errorf("%w: block %q has pages of %d bytes; only %d is supported", ErrUnsupported, b.Name, pageSize, PageSize)
	case b.Length%PageSize != 0:
		return fmt.Errorf("%w: block %q has %d bytes, which is no multiple of its page size %d", ErrDamaged, b.Name, b.Length, PageSize)
	case bitmap > 1<<62 || pages > 1<<62:
		return fmt.Errorf("%w: block %q has its bitmap at offset %d and its pages at %d", ErrDamaged, b.Name, bitmap, pages)
	}
	b.PageSize, b.BitmapOffset, b.PagesOffset = PageSize, int64(bitmap), int64(pages)
	b.Ignored = mayIgnore && bitmap == 0 && pages == 0
	return nil
}

// checkPlace checks the offsets of bitmap and pages. Header, bitmap, pages and the next header follow each other, so a
// block that begins behind the one before it overlaps none.
func (b *Block) checkPlace(headerEnd, end int64) error {
	bitmapEnd := b.BitmapOffset + b.BitmapSize()
	switch {
	case b.BitmapOffset < headerEnd:
		return fmt.Errorf("%w: block %q has its bitmap at offset %d, over headers that end at %d", ErrDamaged, b.Name, b.BitmapOffset, headerEnd)
	case b.PagesOffset%PageSize != 0:
		return fmt.Errorf("%w: block %q has its pages at offset %d, which is no multiple of %d", ErrDamaged, b.Name, b.PagesOffset, PageSize)
	case b.PagesOffset < bitmapEnd:
		return fmt.Errorf("%w: block %q has its pages at offset %d, over its bitmap, which ends at %d", ErrDamaged, b.Name, b.PagesOffset, bitmapEnd)
	case b.PagesEnd() <= end:
		return nil
	case b.BitmapOffset == headerEnd && b.PagesOffset-bitmapEnd < Alignment:
		// The offsets are as they should be; it is the file that is too short.
		return fmt.Errorf("%w: the pages of block %q go to offset %d, the file only to %d", ErrIncomplete, b.Name, b.PagesEnd(), end)
	case bitmapEnd > end:
		return fmt.Errorf("%w: block %q has its bitmap at offset %d, beyond the end at %d", ErrDamaged, b.Name, b.BitmapOffset, end)
	}
	return fmt.Errorf("%w: block %q has its pages at offset %d to %d, beyond the end at %d", ErrDamaged, b.Name, b.PagesOffset, b.PagesEnd(), end)
}
