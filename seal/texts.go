// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Texts are strings within a JSON document, by their places in it (RFC 6901: "/command_line/3"). Linux's paths and arguments are bytes,
// JSON's strings are Unicode: encoding/json writes U+FFFD for what is not UTF-8. Such strings are kept beside the document.
type Texts map[string]*string

// Exact returns those of the texts that JSON would change; nil if there are none.
func (t Texts) Exact() map[string][]byte {
	var exact map[string][]byte
	for place, s := range t {
		if !utf8.ValidString(*s) {
			if exact == nil {
				exact = map[string][]byte{}
			}
			exact[place] = []byte(*s)
		}
	}
	return exact
}

// Restore puts exact texts back. It refuses one that is not what stands in the document but for bytes that are not UTF-8: who reads the
// document shall see what counts.
func (t Texts) Restore(exact map[string][]byte) error {
	for place, b := range exact {
		s := t[place]
		if s == nil {
			continue // of a later version
		}
		var shown string
		text, err := json.Marshal(string(b))
		if err == nil {
			err = json.Unmarshal(text, &shown)
		}
		if err != nil || shown != *s {
			return fmt.Errorf("not_utf8: %.100q is another text than %s", b, place)
		}
		*s = string(b)
	}
	return nil
}

// List adds the elements of a list at a place.
func (t Texts) List(place string, list []string) {
	for i := range list {
		t[place+"/"+strconv.Itoa(i)] = &list[i]
	}
}

// texts are the paths and arguments of the metadata.
func (m *Metadata) texts() Texts {
	t := Texts{"/cwd": &m.Cwd, "/executable": &m.Executable}
	t.List("/command_line", m.CommandLine)
	for i := range m.Disks {
		t["/disks/"+strconv.Itoa(i)+"/file"] = &m.Disks[i].File
	}
	if m.Base != nil {
		t["/base/path"] = &m.Base.Path
	}
	return t
}

// MarshalJSON writes the object, with paths and arguments that are not UTF-8 beside it.
func (m *Metadata) MarshalJSON() ([]byte, error) {
	type plain Metadata
	return json.Marshal(struct {
		*plain
		NotUTF8 map[string][]byte `json:"not_utf8,omitempty"`
	}{(*plain)(m), m.texts().Exact()})
}
