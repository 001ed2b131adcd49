// SPDX-License-Identifier: Apache-2.0

package export

import (
	"encoding/binary"
	"slices"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// A Linux guest of a machine with the device vmcoreinfo gives QEMU the address of an ELF note, VMCOREINFO, which describes how to read
// the guest's memory (KASLR offset, structures). QEMU puts a copy of the note into its dumps (dump_init, dump/dump.c), and so does
// Ramjet: crash and makedumpfile then need nothing else.

const (
	vmcoreinfoSection = "vmcoreinfo"
	elfNoteFormat     = 1       // FW_CFG_VMCOREINFO_FORMAT_ELF
	maxGuestNote      = 1 << 20 // bytes of its name or content, MAX_GUEST_NOTE_SIZE
	noteHeaderSize    = 12
)

// guestNote is where the note is; size 0: there is none.
type guestNote struct {
	address int64 // guest-physical
	size    int64
}

// parseGuestNote takes the section vmcoreinfo (hw/misc/vmcoreinfo.c): u8 whether the guest has said anything, u16 host's format, u16
// guest's format, u32 size, u64 address.
func parseGuestNote(b []byte) (n guestNote) {
	be := binary.BigEndian
	if len(b) < 17 || b[0] == 0 || be.Uint16(b[3:]) != elfNoteFormat {
		return n
	}
	size, address := int64(be.Uint32(b[5:])), be.Uint64(b[9:])
	if size < noteHeaderSize || size > 2*maxGuestNote+64 || address > 1<<52 {
		return n
	}
	return guestNote{int64(address), size}
}

// read reads the note from the guest's memory. What is no note, or not in memory, is left out, as QEMU does.
func (n guestNote) read(img *image.Image, ranges []cmdline.PhysicalRange) ([]byte, error) {
	if n.size == 0 {
		return nil, nil
	}
	b, err := readPhysical(img, n.address, n.size, ranges)
	if err != nil || b == nil {
		return nil, err
	}
	le := binary.LittleEndian
	name, content := int64(le.Uint32(b)), int64(le.Uint32(b[4:]))
	whole := noteHeaderSize + (name+3)&^3 + (content+3)&^3
	if name > maxGuestNote || content > maxGuestNote || whole > n.size {
		return nil, nil
	}
	return b[:whole], nil
}

// readPhysical reads size bytes of guest-physical memory that lie in one range; nil if no range has all of them. The pages are not
// checked here: they are when they are exported with all others.
func readPhysical(img *image.Image, address, size int64, ranges []cmdline.PhysicalRange) ([]byte, error) {
	k := slices.IndexFunc(ranges, func(r cmdline.PhysicalRange) bool {
		return r.Address <= address && address+size <= r.Address+r.Length
	})
	if k < 0 {
		return nil, nil
	}
	sources, err := img.Sources(img.Index(ranges[k].Block))
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	start := ranges[k].Offset + address - ranges[k].Address // in the block
	for _, s := range sources {
		block := s.Image.Blocks[s.Block]
		for off := start; off < start+size; {
			end := min((off/mappedram.PageSize+1)*mappedram.PageSize, start+size)
			if s.Pages.Get(off / mappedram.PageSize) {
				if _, err := s.Image.Descriptor.ReadAt(b[off-start:end-start], block.PagesOffset+off); err != nil {
					return nil, err
				}
			}
			off = end
		}
	}
	return b, nil
}
