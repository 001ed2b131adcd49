// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

const (
	// maxShownValue is how many bytes of a field are shown.
	maxShownValue = 4096
	// maxShownFields and maxShownText bound all fields, and the text of their values. 288 processors have 60,000 fields of 4 MiB.
	maxShownFields = 80_000
	maxShownText   = 6 << 20
)

// Device is one section of the device state.
type Device struct {
	Name     string `json:"name"`
	Instance uint32 `json:"instance"`
	Version  uint32 `json:"version"`
	Bytes    int    `json:"bytes"` // the device's own, without the section's header and footer
	// Fields are those that the description names which QEMU put into the image; nil where there is no description.
	Fields []DeviceField `json:"fields,omitempty"`
}

// DeviceField is a field of a device's state that is no structure, or an array of such fields.
type DeviceField struct {
	Path string `json:"path"` // "parent_obj.irr[3]"; a subsection's name in parentheses
	Type string `json:"type"`
	Size int64  `json:"size"`
	// Value is written as QEMU's analyze-migration.py does: integers in hexadecimal, with the decimal in parentheses if
	// negative; true and false; nullptr; everything else as bytes. Elements of an array are separated by commas. Of more than 4096
	// bytes the first 4096 are shown, and "...".
	Value string `json:"value"`
}

// deviceState takes the device state apart.
func deviceState(img *image.File) ([]Device, error) {
	sections, list, err := img.DeviceState()
	if errors.Is(err, vmstate.ErrCorrupt) || errors.Is(err, vmstate.ErrTruncated) {
		err = fmt.Errorf("%w: %w", mappedram.ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	devices, fields, length := make([]Device, len(list)), 0, 0
	for i, s := range list {
		payload := sections[s.Payload:s.PayloadEnd]
		devices[i] = Device{Name: s.Name, Instance: s.Instance, Version: s.Version, Bytes: len(payload)}
		if s.State == nil {
			continue
		}
		for v := range s.State.Values() {
			f := DeviceField{v.Path, v.Type, v.Size, fieldValue(v.Type, payload[v.Offset:v.Offset+v.Size], v.Count)}
			fields++
			if length += len(f.Path) + len(f.Value); fields > maxShownFields || length > maxShownText {
				return nil, fmt.Errorf("%w: its device state has more than %d fields, or than %d bytes of text to show them, which are more than are taken apart here",
					mappedram.ErrUnsupported, maxShownFields, maxShownText)
			}
			devices[i].Fields = append(devices[i].Fields, f)
		}
	}
	return devices, nil
}

// fieldValue writes the bytes of a field, or of the count equal elements of an array, by its type (QEMU migration/vmstate-types.c).
func fieldValue(typ string, b []byte, count int64) string {
	if typ == "capability" && len(b) > 0 && int(b[0]) == len(b)-1 {
		return strconv.Quote(string(b[1:]))
	}
	size, write := element(typ)
	if size == 0 || len(b)%size != 0 {
		size, write = max(1, len(b)/int(max(1, count))), spaced
	}
	more := len(b) > maxShownValue
	b = b[:min(len(b), maxShownValue)]
	var values []string
	for len(b) > 0 {
		n := min(size, len(b))
		values = append(values, write(b[:n]))
		if b = b[n:]; n < size {
			return strings.Join(values, ", ") + " ..." // within an element
		}
	}
	if more {
		values = append(values, "...")
	}
	return strings.Join(values, ", ")
}

// element is the size of a value of a type, in bytes, and how to write it; 0 for a type of any size.
func element(typ string) (size int, write func([]byte) string) {
	size, signed, ok := integer(typ)
	switch {
	case ok:
		return size, func(b []byte) string { return number(b, signed) }
	case typ == "bool":
		return 1, func(b []byte) string { return strconv.FormatBool(b[0] != 0) }
	case typ == "nullptr":
		return 1, func([]byte) string { return "nullptr" }
	}
	return 0, nil
}

// integer parses the name of an integer's type: "uint16", or, with a check that QEMU makes when it loads the field, "int32 equal" or
// "int32 le" (less or equal). All integers are big-endian in the stream.
func integer(typ string) (size int, signed, ok bool) {
	name, _, _ := strings.Cut(typ, " ")
	bits, isUnsigned := strings.CutPrefix(name, "uint")
	if !isUnsigned {
		if bits, ok = strings.CutPrefix(name, "int"); !ok {
			return 0, false, false
		}
	}
	switch bits {
	case "8", "16", "32", "64":
		n, _ := strconv.Atoi(bits)
		return n / 8, !isUnsigned, true
	}
	return 0, false, false
}

// number writes an integer in hexadecimal, with the decimal in parentheses if it is negative.
func number(b []byte, signed bool) string {
	s := "0x" + hex.EncodeToString(b)
	if signed && b[0]&0x80 != 0 {
		v := new(big.Int).SetBytes(b)
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		s += fmt.Sprintf(" (%s)", v)
	}
	return s
}

// spaced writes bytes in hexadecimal.
func spaced(b []byte) string {
	s := make([]byte, 0, 3*len(b))
	for i, c := range b {
		if i > 0 {
			s = append(s, ' ')
		}
		s = hex.AppendEncode(s, []byte{c})
	}
	return string(s)
}
