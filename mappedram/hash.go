// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// The stream's hash is SHA-256 over the stream from its first byte to its end, except what is, for each block that is
// not ignored, from the end of its bitmap to the end of its pages. What is between bitmap and pages means nothing, and
// the pages have sums of their own. So headers, bitmaps, device state and description are in it, and what precedes the
// stream in the file is not.

// StreamHash returns the hash that an image of this layout has once it is published, without reading it: for a writer
// whose descriptor cannot read. bitmap is asked for the blocks that are not ignored, in order; sections and description
// are those given to WriteTail.
func (l *Layout) StreamHash(bitmap func(i int) (Bitmap, error), sections, description []byte) (seal.Hash, error) {
	h := sha256.New()
	h.Write(l.head())
	for i, b := range l.Blocks {
		h.Write(l.blockHeader(b))
		if b.Ignored {
			continue
		}
		m, err := bitmap(i)
		if err != nil {
			return seal.Hash{}, err
		}
		if err := b.checkBitmap(m); err != nil {
			return seal.Hash{}, err
		}
		m.chunks(func(raw []byte) error { h.Write(raw); return nil })
	}
	h.Write(l.tail(sections, description))
	return seal.Hash(h.Sum(nil)), nil
}

// StreamHash reads the image and returns its hash.
func (m *Image) StreamHash() (seal.Hash, error) {
	h := sha256.New()
	for _, e := range m.hashed() {
		n, err := io.Copy(h, io.NewSectionReader(m.r, e.Offset, e.Length))
		if err == nil && n < e.Length {
			err = fmt.Errorf("%w: the file ends at offset %d", ErrIncomplete, e.Offset+n)
		}
		if err != nil {
			return seal.Hash{}, err
		}
	}
	return seal.Hash(h.Sum(nil)), nil
}

// hashed lists the parts of the stream that the hash covers.
func (m *Image) hashed() []vmstate.Extent {
	var list []vmstate.Extent
	at := m.Offset
	for _, b := range m.Blocks {
		if !b.Ignored {
			list = append(list, vmstate.Extent{Offset: at, Length: b.BitmapOffset + b.BitmapSize() - at})
			at = b.PagesEnd()
		}
	}
	return append(list, vmstate.Extent{Offset: at, Length: m.StreamEnd - at})
}

// VerifyStream checks a sealed image but for its pages: what VerifyState does, and the seal's sums and id. ErrDamaged if
// something does not hold. An image without a seal has nothing to check against: seal.ErrNoSeal.
func (m *Image) VerifyStream() error {
	if m.Seal == nil {
		return seal.ErrNoSeal
	}
	if err := m.Seal.VerifySums(); err != nil {
		return sealError(err)
	}
	return m.VerifyState()
}

// VerifyState checks everything of a sealed image that is needed to start a VM from it but not to check its pages: the
// stream's hash, and that the bitmaps have as many pages as the seal. It reads a bit for each page, VerifyStream 64 more.
func (m *Image) VerifyState() error {
	if m.Seal == nil {
		return seal.ErrNoSeal
	}
	h, err := m.StreamHash()
	if err != nil {
		return err
	}
	if h != m.Seal.StreamHash {
		return fmt.Errorf("%w: its headers, bitmaps or device state are not those that were sealed", ErrDamaged)
	}
	for i, b := range m.Blocks {
		n, err := m.StoredPages(i)
		if err != nil {
			return err
		}
		if n != m.Seal.Blocks[i].PagesStored {
			return fmt.Errorf("%w: block %q stores %d pages, its seal says %d", ErrDamaged, b.Name, n, m.Seal.Blocks[i].PagesStored)
		}
	}
	return nil
}
