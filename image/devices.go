// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// MaxParsedState and MaxParsedDescription bound the device state and its description that are taken apart, in bytes, since both have to
// be in memory. QEMU writes a tenth of that for the devices that it can migrate without VFIO.
const (
	MaxParsedState       = 8 << 20
	MaxParsedDescription = 4 << 20
)

// DeviceState reads the device state and finds its sections. The error matches mappedram.ErrUnsupported if the state is too large, and
// vmstate's errors if it is damaged.
func (m *File) DeviceState() (state []byte, sections []vmstate.Section, err error) {
	if m.SectionsLength > MaxParsedState || m.DescriptionLength > MaxParsedDescription {
		return nil, nil, fmt.Errorf("%w: %d bytes of device state with a description of %d are more than are taken apart here",
			mappedram.ErrUnsupported, m.SectionsLength, m.DescriptionLength)
	}
	text, err := m.Description()
	if err != nil {
		return nil, nil, err
	}
	var d *vmstate.Description
	if text != nil {
		if d, err = vmstate.ParseDescription(text); err != nil {
			return nil, nil, err
		}
	}
	if state, err = m.DeviceSections(); err != nil {
		return nil, nil, err
	}
	sections, err = vmstate.Sections(state, d)
	return state, sections, err
}
