// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// DeviceSections returns the FULL sections of the file that QEMU's command xen-save-devices-state writes: magic,
// version, the sections, the end. There is no configuration, no memory and no description in it. The result shares
// xen's memory.
//
// It is checked as far as a reader who does not know the devices can: every section has a head and a footer that
// belong together, and nothing is left over.
func DeviceSections(xen []byte) ([]byte, error) {
	m := Magic()
	switch {
	case len(xen) < MagicSize || !bytes.Equal(xen[:4], m[:4]):
		return nil, fmt.Errorf("device state: %w", ErrNotStream)
	case !bytes.Equal(xen[:MagicSize], m[:]):
		return nil, fmt.Errorf("device state: %w %d", ErrVersion, binary.BigEndian.Uint32(xen[4:]))
	case len(xen) == MagicSize:
		return nil, fmt.Errorf("device state: %w: it has no end", ErrTruncated)
	case xen[len(xen)-1] != TypeEOF:
		return nil, fmt.Errorf("device state: %w: it ends in byte %#02x", ErrTruncated, xen[len(xen)-1])
	}
	sections := xen[MagicSize : len(xen)-1 : len(xen)-1]
	if len(sections) == 0 {
		return nil, fmt.Errorf("device state: %w: it has no sections", ErrCorrupt)
	}
	if _, err := Sections(sections, nil); err != nil {
		return nil, fmt.Errorf("device state: %w", err)
	}
	return sections, nil
}
