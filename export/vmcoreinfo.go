// SPDX-License-Identifier: Apache-2.0

package export

import (
	"encoding/binary"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// A Linux guest of a machine with the device vmcoreinfo tells QEMU where it has an ELF note, VMCOREINFO, which says how to read its
// memory (KASLR offset, structures). QEMU puts a copy of the note into its dumps (dump_init, dump/dump.c), so crash
// and makedumpfile need nothing else.

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

// guestNote reads the note. One that is none, or not in memory, is left out, as QEMU does.
func (e *export) guestNote(n guestNote, ranges []cmdline.PhysicalRange) ([]byte, error) {
	if n.size == 0 {
		return nil, nil
	}
	b, err := e.readPhysical(n, ranges)
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

// readPhysical reads guest-physical memory that lies in one range; nil if there is none such.
func (e *export) readPhysical(n guestNote, ranges []cmdline.PhysicalRange) ([]byte, error) {
	for _, r := range ranges {
		if n.address < r.Address || n.address+n.size > r.Address+r.Length {
			continue
		}
		sources, err := e.image.Sources(e.image.Index(r.Block))
		if err != nil {
			return nil, err
		}
		b := make([]byte, n.size)
		at := r.Offset + n.address - r.Address // in the block
		for _, s := range sources {
			block := s.Image.Blocks[s.Block]
			for off := at; off < at+n.size; {
				end := min((off/mappedram.PageSize+1)*mappedram.PageSize, at+n.size)
				if s.Pages.Get(off / mappedram.PageSize) {
					// Checked with all other pages when they are copied.
					if _, err := s.Image.F.ReadAt(b[off-at:end-at], block.PagesOffset+off); err != nil {
						return nil, err
					}
				}
				off = end
			}
		}
		return b, nil
	}
	return nil, nil
}
