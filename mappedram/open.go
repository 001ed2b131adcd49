// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

const (
	// scanSize is how far from the file's start a stream is sought whose place nothing tells.
	scanSize = 16 << 20
	// maxCandidates bounds the work that a file full of magics causes.
	maxCandidates = 64
)

// Open opens the image in the first size bytes of r. It finds the stream where the seal says, behind libvirt's header,
// at 0, or by search in the first 16 MiB, where QEMU's `file:PATH,offset=N` may have put it.
//
// Errors that say that the file is no good match ErrImage and one of the other sentinels. With ErrIncomplete the image
// is returned too if its headers are whole, to be looked at; everything else returns none. A whole image of which the device
// state cannot be taken apart is vmstate.ErrInParts, which is not ErrImage.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	s, err := openSeal(r, size)
	if err != nil {
		return nil, err
	}
	lv, err := ReadLibvirt(r, size)
	if err != nil && !errors.Is(err, ErrNotImage) {
		return nil, err
	}
	m := &Image{Layout: &Layout{}, FileSize: size, Seal: s, Libvirt: lv, r: r}
	switch {
	case s != nil:
		m.Offset = s.StreamOffset
	case lv != nil:
		if err := lv.usable(); err != nil {
			return nil, err
		}
		m.Offset = lv.StreamOffset
	default:
		if m.Offset, err = find(r, size); err != nil {
			return nil, err
		}
	}
	return m.open()
}

// OpenAt opens the image whose stream begins at offset.
func OpenAt(r io.ReaderAt, size, offset int64) (*Image, error) {
	s, err := openSeal(r, size)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > size {
		return nil, fmt.Errorf("%w: no stream at offset %d of a file of %d bytes", ErrNotImage, offset, size)
	}
	if s != nil && s.StreamOffset != offset {
		return nil, fmt.Errorf("%w: its stream begins at offset %d, not at %d", ErrNotImage, s.StreamOffset, offset)
	}
	lv, err := ReadLibvirt(r, size)
	if err != nil && !errors.Is(err, ErrImage) {
		return nil, err
	}
	return (&Image{Layout: &Layout{Offset: offset}, FileSize: size, Seal: s, Libvirt: lv, r: r}).open()
}

// openSeal returns nil for an image without a seal.
func openSeal(r io.ReaderAt, size int64) (*seal.Seal, error) {
	s, err := seal.Open(r, size)
	if errors.Is(err, seal.ErrNoSeal) {
		return nil, nil
	}
	return s, sealError(err)
}

// sealError gives an error of package seal the sentinel of this package that means the same.
func sealError(err error) error {
	switch {
	case errors.Is(err, seal.ErrNewer):
		return fmt.Errorf("%w: %w", ErrNewer, err)
	case errors.Is(err, seal.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// open reads everything from Offset on.
func (m *Image) open() (*Image, error) {
	switch {
	case m.Seal != nil && m.Seal.Format != "":
		m.Format = m.Seal.Format
	case m.Seal != nil:
		m.Format = "ramjet"
	case m.Libvirt != nil:
		m.Format = "libvirt"
	default:
		m.Format = "qemu"
	}
	m.StreamEnd = m.FileSize
	if m.Seal != nil {
		m.StreamEnd = m.Seal.Start
	}
	if err := m.readHeaders(); err != nil {
		return nil, err
	}
	m.TailOffset = m.RAMEnd
	if err := m.matchSeal(); err != nil {
		return nil, err
	}
	t, err := vmstate.ParseTail(m.r, m.RAMEnd, m.StreamEnd, m.SectionID)
	if err != nil {
		err = streamError(err)
		if errors.Is(err, ErrIncomplete) {
			return m, m.unfinished(err)
		}
		return nil, err
	}
	if err := m.setTail(t); err != nil {
		return nil, err
	}
	m.Complete = true
	return m, nil
}

func (m *Image) setTail(t vmstate.Tail) (err error) {
	m.SectionsOffset, m.SectionsLength = t.Sections.Offset, t.Sections.Length
	m.DescriptionOffset, m.DescriptionLength = t.Description.Offset, t.Description.Length
	m.Setup, err = m.read(t.Setup.Offset, t.Setup.Length, "sections before the parts of the memory")
	return err
}

// streamError gives an error of package vmstate the sentinel of this package that means the same.
func streamError(err error) error {
	for _, p := range []struct{ from, to error }{
		{vmstate.ErrNotStream, ErrNotImage}, {vmstate.ErrTruncated, ErrIncomplete},
		{vmstate.ErrVersion, ErrUnsupported}, {vmstate.ErrCorrupt, ErrDamaged},
	} {
		if errors.Is(err, p.from) {
			return fmt.Errorf("%w: %w", p.to, err)
		}
	}
	return err
}

// matchSeal checks that the seal is this stream's.
func (m *Image) matchSeal() error {
	if m.Seal == nil {
		return nil
	}
	if len(m.Seal.Blocks) != len(m.Blocks) {
		return fmt.Errorf("%w: its seal is for %d blocks of memory, it has %d", ErrDamaged, len(m.Seal.Blocks), len(m.Blocks))
	}
	for i, b := range m.Blocks {
		s := m.Seal.Blocks[i]
		if s.Name != b.Name || s.Length != b.Length || s.PageSize != b.PageSize || b.Ignored && s.PagesStored != 0 {
			return fmt.Errorf("%w: its seal is for a block %q of %d bytes where block %q has %d", ErrDamaged, s.Name, s.Length, b.Name, b.Length)
		}
	}
	return nil
}

// find seeks the stream in a file that says nothing about it.
func find(r io.ReaderAt, size int64) (int64, error) {
	magic := vmstate.Magic()
	first := make([]byte, min(size, vmstate.MagicSize))
	if err := readAt(r, first, 0); err != nil {
		return 0, err
	}
	if bytes.HasPrefix(first, magic[:4]) {
		return 0, nil
	}
	if len(first) == len(magic) && bytes.Equal(first, make([]byte, len(first))) {
		if err := unpublished(r, size); err != nil {
			return 0, err
		}
	}
	limit := min(size, scanSize)
	b := make([]byte, min(limit, 256<<10))
	for at, candidates := int64(0), 0; at < limit; {
		n := min(limit-at, int64(len(b)))
		if err := readAt(r, b[:n], at); err != nil {
			return 0, err
		}
		for k := 0; ; k++ {
			next := bytes.Index(b[k:n], magic[:])
			if next < 0 {
				break
			}
			k += next
			l := &Layout{Offset: at + int64(k)}
			if _, _, err := l.readStart(r, size); err == nil || errors.Is(err, ErrPlainStream) {
				return l.Offset, nil
			}
			if candidates++; candidates == maxCandidates {
				return 0, fmt.Errorf("%w: it has many beginnings of streams, and none of the first %d goes on", ErrNotImage, maxCandidates)
			}
		}
		if n == limit-at {
			break
		}
		at += n - int64(len(magic)) + 1 // a magic may lie across the border
	}
	return 0, fmt.Errorf("%w: no QEMU migration stream begins in its first %d MiB", ErrNotImage, scanSize>>20)
}

// unpublished recognises an image that has everything but its first eight bytes.
func unpublished(r io.ReaderAt, size int64) error {
	magic := vmstate.Magic()
	rest := io.NewSectionReader(r, vmstate.MagicSize, min(size, 64<<10)-vmstate.MagicSize)
	c, _, err := vmstate.ReadHeader(io.MultiReader(bytes.NewReader(magic[:]), rest))
	if err == nil && c.Has(capMappedRAM) {
		return fmt.Errorf("%w: its first %d bytes, which are written last, are missing; the save was interrupted", ErrIncomplete, vmstate.MagicSize)
	}
	return nil
}
