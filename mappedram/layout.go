// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"encoding/binary"
	"fmt"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// Block is one RAMBlock of QEMU and its place in the file. All offsets count from the start of the file.
type Block struct {
	Name         string // QEMU's idstr, as "pc.ram"; 1 to 255 bytes, no control characters
	Length       int64  // bytes (QEMU: used_length), a multiple of PageSize, not 0
	PageSize     int64  // bytes of a page of the bitmap: 4096
	HeaderOffset int64  // where the block's name length byte is
	BitmapOffset int64
	PagesOffset  int64 // page i is at PagesOffset + i*PageSize

	// Ignored: the image has neither bitmap nor pages of the block, because both sides share it. Both offsets are 0.
	Ignored bool
	// GuestAddress is the block's guest-physical address; stored only with the capability x-ignore-shared.
	GuestAddress uint64
}

// Pages returns the number of pages of the block.
func (b Block) Pages() int64 { return b.Length / b.PageSize }

// BitmapSize returns the bytes of the block's bitmap in the file, a multiple of 8 as on every 64-bit host.
func (b Block) BitmapSize() int64 { return (b.Pages() + 63) / 64 * 8 }

// PagesEnd returns the offset behind the block's pages.
func (b Block) PagesEnd() int64 { return b.PagesOffset + b.Length }

// Layout says where everything is in an image, up to the end of memory.
type Layout struct {
	Offset    int64          // where the stream starts in the file
	Config    vmstate.Config // machine type and capabilities
	Early     []byte         // what is between the configuration and the section "ram"; usually nothing
	Setup     []byte         // what is between the start of the section "ram" and its parts; usually nothing
	SectionID uint32         // of the section "ram"
	Blocks    []Block        // in the stream's order
	RAMEnd    int64          // where the end of the section "ram" goes, right behind the last block's pages
}

// Like lays out an image for blocks, as NewLayout does, that loads what image loads before and beside the memory.
func Like(image *Layout, blocks []Block) (*Layout, error) {
	l := &Layout{Config: image.Config, Early: image.Early, Setup: image.Setup, SectionID: DefaultSectionID, Blocks: append([]Block(nil), blocks...)}
	return l, l.Arrange()
}

// NewLayout lays out an image whose stream starts at offset, for blocks of which Name and Length (and GuestAddress and
// Ignored where needed) are set. Its offsets are those that QEMU would choose.
func NewLayout(offset int64, c vmstate.Config, blocks []Block) (*Layout, error) {
	l := &Layout{Offset: offset, Config: c, SectionID: DefaultSectionID, Blocks: append([]Block(nil), blocks...)}
	return l, l.Arrange()
}

// Arrange computes all offsets anew from Offset, Config, Early, SectionID and the blocks' names and lengths.
func (l *Layout) Arrange() error {
	if err := l.check(); err != nil {
		return err
	}
	at := l.Offset + int64(len(l.head()))
	for i := range l.Blocks {
		b := &l.Blocks[i]
		b.PageSize, b.HeaderOffset = PageSize, at
		at += int64(len(l.blockHeader(*b)))
		if b.Ignored {
			b.BitmapOffset, b.PagesOffset = 0, 0
			continue
		}
		b.BitmapOffset = at
		b.PagesOffset = alignUp(at + b.BitmapSize())
		at = b.PagesEnd()
	}
	l.RAMEnd = at
	return nil
}

func alignUp(n int64) int64 { return (n + Alignment - 1) &^ (Alignment - 1) }

// check refuses what cannot be written, or QEMU would not load.
func (l *Layout) check() error {
	switch {
	case l.Offset < 0 || l.Offset > 1<<40:
		return fmt.Errorf("cannot lay out an image at offset %d", l.Offset)
	case l.Config.MachineType == "" || len(l.Config.MachineType) > vmstate.MaxMachineName:
		return fmt.Errorf("cannot lay out an image for machine type %.80q", l.Config.MachineType)
	case !l.Config.Has(capMappedRAM):
		return fmt.Errorf("cannot lay out an image without the capability %s", capMappedRAM)
	case l.SectionID == 0:
		return fmt.Errorf("cannot lay out an image whose section of memory has the id 0")
	case len(l.Early) > MaxEarly:
		return fmt.Errorf("cannot lay out an image with %d bytes of sections before the memory", len(l.Early))
	case len(l.Setup) > vmstate.MaxSetup:
		return fmt.Errorf("cannot lay out an image with %d bytes of sections before the parts of the memory", len(l.Setup))
	case len(l.Blocks) == 0 || len(l.Blocks) > MaxBlocks:
		return fmt.Errorf("cannot lay out an image of %d blocks of memory", len(l.Blocks))
	}
	names := make(map[string]bool, len(l.Blocks))
	for _, b := range l.Blocks {
		switch {
		case !validName([]byte(b.Name)):
			return fmt.Errorf("cannot lay out a block of memory with the name %.80q", b.Name)
		case names[b.Name]:
			return fmt.Errorf("cannot lay out two blocks of memory with the name %q", b.Name)
		case b.Length <= 0 || b.Length > MaxBlockLength || b.Length%PageSize != 0:
			return fmt.Errorf("cannot lay out block %q of %d bytes: not a multiple of %d, or more than %d", b.Name, b.Length, PageSize, int64(MaxBlockLength))
		case b.PageSize != 0 && b.PageSize != PageSize:
			return fmt.Errorf("cannot lay out block %q with pages of %d bytes, only of %d", b.Name, b.PageSize, PageSize)
		case b.Ignored && !l.Config.Has(capIgnoreShared):
			return fmt.Errorf("cannot leave out block %q without the capability %s", b.Name, capIgnoreShared)
		}
		names[b.Name] = true
	}
	return nil
}

// Total returns the sum of the blocks' lengths, ignored ones included.
func (l *Layout) Total() int64 {
	var n int64
	for _, b := range l.Blocks {
		n += b.Length
	}
	return n
}

// Index returns the index of the block with that name, or -1.
func (l *Layout) Index(name string) int {
	for i, b := range l.Blocks {
		if b.Name == name {
			return i
		}
	}
	return -1
}

// head is the stream up to the first block's name.
func (l *Layout) head() []byte {
	b := vmstate.AppendHeader(nil, l.Config)
	b = append(b, l.Early...)
	b = vmstate.AppendSectionStart(b, vmstate.TypeStart, l.SectionID, vmstate.RAMName, 0, vmstate.RAMVersion)
	return binary.BigEndian.AppendUint64(b, uint64(l.Total())|flagSize)
}

// blockHeader is what comes before the bitmap of a block.
func (l *Layout) blockHeader(b Block) []byte {
	h := append([]byte{byte(len(b.Name))}, b.Name...)
	h = binary.BigEndian.AppendUint64(h, uint64(b.Length))
	if l.Config.Has(capIgnoreShared) {
		h = binary.BigEndian.AppendUint64(h, b.GuestAddress)
	}
	h = binary.BigEndian.AppendUint32(h, HeaderVersion)
	h = binary.BigEndian.AppendUint64(h, uint64(b.PageSize))
	h = binary.BigEndian.AppendUint64(h, uint64(b.BitmapOffset))
	return binary.BigEndian.AppendUint64(h, uint64(b.PagesOffset))
}

// validName reports whether name can be a block's: 1 to 255 bytes, none of them a control character.
func validName(name []byte) bool {
	for _, c := range name {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return len(name) > 0 && len(name) <= 255
}
