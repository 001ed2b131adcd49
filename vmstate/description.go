// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
)

// Description is QEMU's own account of the device state in a stream, the JSON behind its end
// (`{"configuration":…,"page_size":4096,"devices":[…]}`, QEMU migration/vmstate.c).
type Description struct {
	PageSize int64   `json:"page_size"`
	Devices  []State `json:"devices"` // in the order of their sections
}

// State describes the payload of a section, of a structure in it, or of a subsection.
type State struct {
	Name        string  `json:"name"` // the section's; empty for structures and subsections
	Instance    uint32  `json:"instance_id"`
	VMSD        string  `json:"vmsd_name"` // the type; a subsection's name in the stream
	Version     int64   `json:"version"`
	Fields      []Field `json:"fields"`
	Subsections []State `json:"subsections"`
}

// Field is one field of a state, in the order of the stream.
type Field struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// Size is the bytes that it takes in the stream, of one element if it is an array.
	Size int64 `json:"size"`
	// ArrayLen is the number of equal elements that one entry stands for; 0 means one.
	ArrayLen int64 `json:"array_len"`
	// Index numbers the elements of an array whose elements have an entry each; QEMU 10 leaves out that of the last.
	Index *int64 `json:"index"`
	// Struct describes the inside of a field whose type is "struct".
	Struct *State `json:"struct"`
}

// ParseDescription reads the JSON text of a description. Errors are ErrCorrupt.
func ParseDescription(text []byte) (*Description, error) {
	if len(text) > MaxDescription {
		return nil, fmt.Errorf("%w: a description of %d bytes, more than %d", ErrCorrupt, len(text), MaxDescription)
	}
	if err := checkShape(text); err != nil {
		return nil, err
	}
	d := new(Description)
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("%w: its description: %w", ErrCorrupt, err)
	}
	for i := range d.Devices {
		if err := d.Devices[i].check(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// maxObjects bounds the memory that a description can take: each object becomes one Field or State. A VM of 288 vCPUs
// has some 100,000.
const maxObjects = 200_000

// checkShape refuses, before anything is allocated, text with more objects than there can be, or with arrays of
// anything but objects: three bytes of such text become a hundred in memory.
func checkShape(text []byte) error {
	objects, inString := 0, false
	var stack []byte // open brackets
	var before byte  // the last byte that was neither white space nor inside a string
	for i := 0; i < len(text); i++ {
		c := text[i]
		if inString {
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
			continue
		}
		if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
			continue
		}
		element := len(stack) > 0 && stack[len(stack)-1] == '[' && (before == '[' || before == ',')
		if element && c != '{' && c != ']' {
			return fmt.Errorf("%w: its description has an array of something else than objects", ErrCorrupt)
		}
		switch c {
		case '"':
			inString = true
		case '{', '[':
			if objects++; objects > maxObjects || len(stack) > 256 {
				return fmt.Errorf("%w: its description has more than %d objects, or too many in one another", ErrCorrupt, maxObjects)
			}
			stack = append(stack, c)
		case '}', ']':
			stack = stack[:max(0, len(stack)-1)]
		}
		before = c
	}
	return nil
}

// check bounds the numbers, so that sums of lengths cannot overflow.
func (s *State) check() error {
	for i := range s.Fields {
		f := &s.Fields[i]
		if f.Size < 0 || f.Size > MaxDeviceState || f.ArrayLen < 0 || f.ArrayLen > MaxDeviceState || f.Size*f.ArrayLen > MaxDeviceState {
			return fmt.Errorf("%w: its description has a field %q of %d times %d bytes", ErrCorrupt, f.Name, f.ArrayLen, f.Size)
		}
		if f.Struct != nil {
			if err := f.Struct.check(); err != nil {
				return err
			}
		}
	}
	for i := range s.Subsections {
		if err := s.Subsections[i].check(); err != nil {
			return err
		}
	}
	return nil
}

// Length returns the bytes that the state takes in the stream, subsections included.
func (s *State) Length() int64 {
	var n int64
	for i := range s.Fields {
		n += s.Fields[i].Size * max(1, s.Fields[i].ArrayLen)
	}
	for i := range s.Subsections {
		n += s.Subsections[i].head() + s.Subsections[i].Length()
	}
	return n
}

// head is the length of what introduces a subsection: 05, u8 length and name, be32 version.
func (s *State) head() int64 { return int64(2 + len(s.VMSD) + 4) }

type stateKey struct {
	name     string
	instance uint32
}

// index returns the devices by what names their sections; d may be nil.
func (d *Description) index() map[stateKey]*State {
	if d == nil {
		return nil
	}
	m := make(map[stateKey]*State, len(d.Devices))
	for i := range d.Devices {
		m[stateKey{d.Devices[i].Name, d.Devices[i].Instance}] = &d.Devices[i]
	}
	return m
}

// Value is a field at its place in a payload.
type Value struct {
	Path   string // "parent_obj.irr[3]"; a subsection's name in parentheses, "(cpu/fpu).fpregs"
	Type   string
	Offset int64 // in the payload
	Size   int64
	Count  int64 // of equal elements in Size; 0 for what is no array
}

// Values yields every field that is no structure, with its place in the payload, in the stream's order. An array that
// the description compresses yields one value over all its elements, except that of structures: there each element is
// walked. A structure whose fields do not add up to its size yields one value. Several entries of one name are an array, numbered
// as they come: so does QEMU's analyze-migration.py, and the indices in the description are not complete.
func (s *State) Values() iter.Seq[Value] {
	return func(yield func(Value) bool) { s.walk("", 0, yield) }
}

func element(n int64) string { return "[" + strconv.FormatInt(n, 10) + "]" }

func (s *State) walk(prefix string, at int64, yield func(Value) bool) bool {
	var n int64 // elements of this array so far
	for i := range s.Fields {
		f := &s.Fields[i]
		name := prefix + f.Name
		if i == 0 || s.Fields[i-1].Name != f.Name {
			n = 0
		}
		// Of one array in several entries.
		several := f.Index != nil || n > 0 || i+1 < len(s.Fields) && s.Fields[i+1].Name == f.Name
		if f.Struct == nil || f.Size == 0 || f.Struct.Length() != f.Size {
			total := f.Size * max(1, f.ArrayLen)
			if several {
				name += element(n)
			}
			if !yield(Value{name, f.Type, at, total, f.ArrayLen}) {
				return false
			}
			n += max(1, f.ArrayLen)
			at += total
			continue
		}
		for range max(1, f.ArrayLen) {
			inner := name
			if several || f.ArrayLen > 0 {
				inner += element(n)
			}
			if !f.Struct.walk(inner+".", at, yield) {
				return false
			}
			n++
			at += f.Size
		}
	}
	for i := range s.Subsections {
		sub := &s.Subsections[i]
		at += sub.head()
		if !sub.walk(prefix+"("+sub.VMSD+").", at, yield) {
			return false
		}
		at += sub.Length()
	}
	return true
}
