// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"fmt"
)

// Section is one device section inside a run of FULL sections.
type Section struct {
	Head
	// Start and End bound the whole section in the run, head and footer included.
	Start, End int
	// Payload and PayloadEnd bound the device's own bytes.
	Payload, PayloadEnd int
	// State describes the payload's fields. It is nil without a description, and where the description does not fit:
	// a State here is exactly as long as the payload.
	State *State
}

// Sections splits a run of FULL sections, as DeviceSections and an image give it. d may be nil.
//
// No length stands in the stream: QEMU knows it from its code. With the description it can be computed, and is
// believed only if a footer with the right id stands there. Otherwise a section ends at the first footer with its id
// behind which another section or the end of the run follows. A guest can put bytes that look like that into its
// devices, so where such an end leads nowhere the next one is tried, a limited number of times.
func Sections(data []byte, d *Description) ([]Section, error) {
	if len(data) > MaxDeviceState {
		return nil, fmt.Errorf("%w: %d bytes of device state, more than %d", ErrCorrupt, len(data), MaxDeviceState)
	}
	described := d.index()
	var list []Section
	at, from := 0, 0 // the section being read begins at at; its end is sought from from on
	for dead := 0; at < len(data); {
		s, err := nextSection(data, at, from, described)
		if err == nil {
			list, at, from = append(list, s), s.End, 0
			if len(list) > MaxSections {
				return nil, fmt.Errorf("%w: more than %d device sections", ErrCorrupt, MaxSections)
			}
			continue
		}
		if dead++; len(list) == 0 || dead > maxDeadEnds {
			return nil, err
		}
		last := list[len(list)-1]
		list, at, from = list[:len(list)-1], last.Start, last.PayloadEnd+1
	}
	return list, nil
}

// CPUSection is the section of each processor's registers (target/i386/machine.c, vmstate_x86_cpu).
const CPUSection = "cpu"

// maxDeadEnds bounds the work that a crafted run of sections can cause.
const maxDeadEnds = 256

// nextSection reads the section at data[at:]. Its footer is sought at from and after, or where it should be if from
// is 0.
func nextSection(data []byte, at, from int, described map[stateKey]*State) (Section, error) {
	h, n, err := ParseHead(data[at:])
	if err != nil {
		return Section{}, err
	}
	if h.Type != TypeFull {
		return Section{}, fmt.Errorf("%w: section %q comes in parts, which no device's does", ErrCorrupt, h.Name)
	}
	s := Section{Head: h, Start: at, Payload: at + n}
	footer := AppendFooter(nil, h.ID)
	if state := described[stateKey{h.Name, h.Instance}]; state != nil && from == 0 {
		size := state.Length()
		if size >= 0 && size <= int64(len(data)-s.Payload) && bytes.HasPrefix(data[s.Payload+int(size):], footer) {
			s.PayloadEnd, s.State = s.Payload+int(size), state
			s.End = s.PayloadEnd + FooterSize
			return s, nil
		}
	}
	for p := max(s.Payload, from); p < len(data); p++ {
		k := bytes.Index(data[p:], footer)
		if k < 0 {
			break
		}
		p += k
		end := p + FooterSize
		if end == len(data) || followed(data[end:]) {
			s.PayloadEnd, s.End = p, end
			return s, nil
		}
	}
	return Section{}, fmt.Errorf("%w: no end of section %q (id %d)", ErrCorrupt, h.Name, h.ID)
}

// followed reports whether a device section seems to begin at b.
func followed(b []byte) bool {
	h, _, err := ParseHead(b)
	return err == nil && h.Type == TypeFull
}
