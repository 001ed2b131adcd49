// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"encoding/hex"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Device is one section of the device state.
type Device struct {
	Name     string `json:"name"`
	Instance uint32 `json:"instance"`
	Version  uint32 `json:"version"`
	Bytes    int    `json:"bytes"` // of its own, without what surrounds it
	// Fields are known from the description that QEMU put into the image; nil where there is none.
	Fields []DeviceField `json:"fields,omitempty"`
}

// DeviceField is a field at the bottom of a device's state, or an array of equal ones.
type DeviceField struct {
	Path string `json:"path"` // "parent_obj.irr[3]"; a subsection's name in parentheses
	Type string `json:"type"`
	Size int64  `json:"size"`
	// Value is written as QEMU's analyze-migration.py does: integers in hexadecimal, with the decimal in parentheses if
	// negative; true and false; nullptr; everything else as bytes. Elements of an array are separated by commas.
	Value string `json:"value"`
}

const (
	// maxShownState and maxShownDescription bound what Inspect takes into memory; what QEMU writes is a tenth of it.
	maxShownState       = 8 << 20
	maxShownDescription = 4 << 20
	// maxShownValue is how many bytes of a field are shown.
	maxShownValue = 4096
)

func deviceState(image *openedImage) ([]Device, error) {
	if image.SectionsLength > maxShownState || image.DescriptionLength > maxShownDescription {
		return nil, fmt.Errorf("%w: %d bytes of device state with a description of %d are more than are taken apart here",
			mappedram.ErrUnsupported, image.SectionsLength, image.DescriptionLength)
	}
	sections, err := image.DeviceSections()
	if err != nil {
		return nil, err
	}
	text, err := image.Description()
	if err != nil {
		return nil, err
	}
	var d *vmstate.Description
	if text != nil {
		if d, err = vmstate.ParseDescription(text); err != nil {
			return nil, fmt.Errorf("%w: %w", mappedram.ErrDamaged, err)
		}
	}
	list, err := vmstate.Sections(sections, d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", mappedram.ErrDamaged, err)
	}
	devices := make([]Device, len(list))
	for i, s := range list {
		payload := sections[s.Payload:s.PayloadEnd]
		devices[i] = Device{Name: s.Name, Instance: s.Instance, Version: s.Version, Bytes: len(payload)}
		if s.State == nil {
			continue
		}
		for v := range s.State.Values() {
			devices[i].Fields = append(devices[i].Fields, DeviceField{
				v.Path, v.Type, v.Size, fieldValue(v.Type, payload[v.Offset:v.Offset+v.Size]),
			})
		}
	}
	return devices, nil
}

// fieldValue writes the bytes of a field by its type (QEMU migration/vmstate-types.c).
func fieldValue(typ string, b []byte) string {
	size, signed, le, ok := integer(typ)
	switch {
	case typ == "nullptr" && len(b) == 1:
		return "nullptr"
	case typ == "bool":
		size, ok = 1, true
	case typ == "capability" && len(b) > 0 && int(b[0]) == len(b)-1:
		return strconv.Quote(string(b[1:]))
	}
	more := len(b) > maxShownValue
	b = b[:min(len(b), maxShownValue)]
	if !ok || len(b) == 0 || len(b)%size != 0 {
		return spaced(b, more)
	}
	var values []string
	for ; len(b) > 0; b = b[size:] {
		switch e := b[:size]; {
		case typ == "bool":
			values = append(values, strconv.FormatBool(e[0] != 0))
		default:
			values = append(values, number(e, signed, le))
		}
	}
	if more {
		values = append(values, "...")
	}
	return strings.Join(values, ", ")
}

// integer reads the name of an integer's type: "uint16", "int32 equal", "int32 le".
func integer(typ string) (size int, signed, le, ok bool) {
	name, kind, _ := strings.Cut(typ, " ")
	bits, isUnsigned := strings.CutPrefix(name, "uint")
	if !isUnsigned {
		if bits, ok = strings.CutPrefix(name, "int"); !ok {
			return 0, false, false, false
		}
	}
	switch bits {
	case "8", "16", "32", "64":
		n, _ := strconv.Atoi(bits)
		return n / 8, !isUnsigned, kind == "le", true
	}
	return 0, false, false, false
}

func number(b []byte, signed, le bool) string {
	if le {
		r := make([]byte, len(b))
		for i := range b {
			r[len(b)-1-i] = b[i]
		}
		b = r
	}
	s := "0x" + hex.EncodeToString(b)
	if signed && b[0]&0x80 != 0 {
		v := new(big.Int).SetBytes(b)
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		s += fmt.Sprintf(" (%s)", v)
	}
	return s
}

func spaced(b []byte, more bool) string {
	s := make([]byte, 0, 3*len(b)+3)
	for i, c := range b {
		if i > 0 {
			s = append(s, ' ')
		}
		s = hex.AppendEncode(s, []byte{c})
	}
	if more {
		s = append(s, " ..."...)
	}
	return string(s)
}
