// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// described is a device whose payload holds a whole fake section, and its description in the form of QEMU's.
const described = `{"configuration": {"vmsd_name": "configuration", "version": 1, "fields": [{"name": "len", "type": "uint32", "size": 4}]},
 "page_size": 4096, "devices": [
 {"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2, "fields": [
   {"name": "ticks", "type": "int64", "size": 8}, {"name": "unused", "type": "unused_buffer", "size": 8}]},
 {"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, "fields": [
   {"name": "regs", "array_len": 3, "type": "uint16", "size": 2},
   {"name": "q", "index": 0, "type": "struct", "struct": {"vmsd_name": "q", "version": 1, "fields": [{"name": "len", "type": "uint8", "size": 1}]}, "size": 1},
   {"name": "q", "type": "struct", "struct": {"vmsd_name": "q", "version": 1, "fields": [{"name": "len", "type": "uint8", "size": 1}]}, "size": 1},
   {"name": "pair", "array_len": 2, "type": "struct", "struct": {"vmsd_name": "p", "version": 1, "fields": [
      {"name": "a", "type": "uint8", "size": 1}, {"name": "b", "type": "uint16", "size": 2}]}, "size": 3},
   {"name": "odd", "type": "struct", "struct": {"vmsd_name": "o", "version": 1, "fields": []}, "size": 23}],
  "subsections": [{"vmsd_name": "dev/more", "version": 1, "fields": [{"name": "x", "type": "uint32", "size": 4}]}]}]}`

func TestDescription(t *testing.T) {
	d, err := ParseDescription([]byte(described))
	if err != nil {
		t.Fatal(err)
	}
	if d.PageSize != 4096 || len(d.Devices) != 2 || d.Devices[0].Length() != 16 {
		t.Fatalf("parsed as %+v", d)
	}
	dev := &d.Devices[1]
	var got []string
	for v := range dev.Values() {
		got = append(got, fmt.Sprintf("%s %s %d+%d", v.Path, v.Type, v.Offset, v.Size))
	}
	want := []string{"regs uint16 0+6", "q[0].len uint8 6+1", "q[1].len uint8 7+1",
		"pair[0].a uint8 8+1", "pair[0].b uint16 9+2", "pair[1].a uint8 11+1", "pair[1].b uint16 12+2",
		"odd struct 14+23", "(dev/more).x uint32 51+4"}
	if !slices.Equal(got, want) {
		t.Errorf("values\n%q, want\n%q", got, want)
	}
	if dev.Length() != 55 {
		t.Errorf("length %d, want 55", dev.Length())
	}
	for stop := range want {
		n := 0
		for range dev.Values() {
			if n == stop {
				break
			}
			n++
		}
	}

	// A payload that holds bytes like a footer and a section is split right with the description.
	payload := string(full(nil, 1, "fake", "")) + string(AppendFooter(nil, 1)) + string(full(nil, 2, "fake2", ""))
	payload += strings.Repeat("z", 55-len(payload))
	data := full(full(full(nil, 0, "timer", strings.Repeat("\x00", 16)), 1, "dev", payload), 3, "unknown", "u")
	list, err := Sections(data, d)
	if err != nil || names(list) != "timer dev unknown" {
		t.Fatalf("sections %s, %v", names(list), err)
	}
	if list[1].State != dev || list[2].State != nil || list[1].PayloadEnd-list[1].Payload != 55 {
		t.Errorf("section %+v", list[1])
	}
	// Where the description does not fit it is not used.
	short := full(nil, 0, "timer", "abc")
	if list, err := Sections(short, d); err != nil || len(list) != 1 || list[0].State != nil {
		t.Errorf("described wrongly: %+v, %v", list, err)
	}
}

// badDescriptions must be refused.
var badDescriptions = map[string]string{
	"no-json":         "{",
	"no-object":       `[{"a": 1}]`,
	"numbers":         `{"devices": [1, 2]}`,
	"nested-arrays":   `{"devices": [[]]}`,
	"strings":         `{"devices": ["a", "\"[1"]}`,
	"negative-size":   `{"devices": [{"fields": [{"size": -1}]}]}`,
	"huge-size":       `{"devices": [{"fields": [{"size": 9000000000000000000}]}]}`,
	"huge-product":    `{"devices": [{"fields": [{"size": 1000000000, "array_len": 1000000000}]}]}`,
	"negative-array":  `{"devices": [{"fields": [{"size": 1, "array_len": -5}]}]}`,
	"in-a-struct":     `{"devices": [{"fields": [{"struct": {"fields": [{"size": -1}]}}]}]}`,
	"in-a-subsection": `{"devices": [{"subsections": [{"fields": [{"size": -1}]}]}]}`,
	"deep":            strings.Repeat(`{"struct":`, 300) + "1" + strings.Repeat("}", 300),
	"many":            `{"devices": [` + strings.Repeat("{},", maxObjects) + `{}]}`,
	"long":            strings.Repeat(" ", MaxDescription+1),
}

func TestBadDescription(t *testing.T) {
	for name, text := range badDescriptions {
		if d, err := ParseDescription([]byte(text)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}
