// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"encoding/binary"
	"fmt"
)

// FooterSize is the length of a section's footer.
const FooterSize = 5

// Head is what introduces a section of type START or FULL.
type Head struct {
	Type     byte   // TypeStart or TypeFull
	ID       uint32 // names the section in its footer and in its further parts
	Name     string // what it is about, as "ram" or "0000:00:02.0/virtio-net"; 1 to 255 bytes
	Instance uint32
	Version  uint32
}

// AppendSectionStart appends the head of a section of type TypeStart or TypeFull. Of idstr at most 255 bytes are used,
// which is what its length byte can say.
func AppendSectionStart(b []byte, typ byte, id uint32, idstr string, instance, version uint32) []byte {
	idstr = idstr[:min(len(idstr), 255)]
	b = append(b, typ)
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, byte(len(idstr)))
	b = append(b, idstr...)
	b = binary.BigEndian.AppendUint32(b, instance)
	return binary.BigEndian.AppendUint32(b, version)
}

// AppendSectionPart appends the head of a further part, TypePart or TypeEnd.
func AppendSectionPart(b []byte, typ byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, typ), id)
}

// AppendFooter appends what follows a section's payload.
func AppendFooter(b []byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, TypeFooter), id)
}

// AppendEnd appends the end of the state and, unless it is nil, the description of the device state.
func AppendEnd(b, description []byte) []byte {
	b = append(b, TypeEOF)
	if description == nil {
		return b
	}
	b = binary.BigEndian.AppendUint32(append(b, TypeDescription), uint32(len(description)))
	return append(b, description...)
}

// ParseHead reads the head of a START or FULL section from the beginning of b; n is its length.
// Errors are ErrTruncated and ErrCorrupt.
func ParseHead(b []byte) (h Head, n int, err error) {
	if len(b) < 6 {
		return h, 0, fmt.Errorf("%w: it ends in the head of a section", ErrTruncated)
	}
	h.Type, h.ID = b[0], binary.BigEndian.Uint32(b[1:])
	if h.Type != TypeStart && h.Type != TypeFull {
		return h, 0, fmt.Errorf("%w: byte %#02x where a section should begin", ErrCorrupt, h.Type)
	}
	n = 6 + int(b[5])
	if len(b) < n+8 {
		return h, 0, fmt.Errorf("%w: it ends in the head of a section", ErrTruncated)
	}
	if !printable(b[6:n]) {
		return h, 0, fmt.Errorf("%w: section %d has the name %q", ErrCorrupt, h.ID, b[6:n])
	}
	h.Name = string(b[6:n])
	h.Instance = binary.BigEndian.Uint32(b[n:])
	h.Version = binary.BigEndian.Uint32(b[n+4:])
	return h, n + 8, nil
}
