// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

// FuzzReadHeader: a header that is read is written again as it was, and one that is not says why.
func FuzzReadHeader(f *testing.F) {
	f.Add(AppendHeader(nil, Config{MachineType: "virt-10.0", PageBits: 12, Capabilities: []string{"x-ignore-shared", "mapped-ram"}, UUID: []byte("0123456789abcdef")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		c, n, err := ReadHeader(bytes.NewReader(b))
		if err != nil {
			if !known(err) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		again, m, err := ReadHeader(bytes.NewReader(AppendHeader(nil, c)))
		if err != nil || m > n || len(c.Capabilities) > 0 && !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v is written and read as %+v, %d bytes of %d, %v", c, again, m, n, err)
		}
	})
}

// FuzzParseTail: what is found lies inside the file, in order.
func FuzzParseTail(f *testing.F) {
	f.Add(AppendEnd(bytes.Join([][]byte{endOfPart, part, command, last, devices}, nil), []byte(`{"devices": []}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		tail, err := ParseTail(bytes.NewReader(b), 0, int64(len(b)), 2)
		if err != nil {
			if !known(err) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		s, d := tail.Sections, tail.Description
		if s.Offset < 0 || s.Length < 0 || s.End() > int64(len(b)) || d.Length > 0 && (d.Offset < s.End() || d.End() != int64(len(b))) {
			t.Fatalf("%+v in %d bytes", tail, len(b))
		}
	})
}

// FuzzSections: sections cover their run without gaps, with and without a description.
func FuzzSections(f *testing.F) {
	f.Add(devices, []byte(described))
	f.Add(full(full(nil, 2, "a", string(AppendSectionStart(AppendFooter(nil, 2), TypeFull, 77, "fake", 0, 1))), 3, "b", "z"), []byte(nil))
	for _, text := range badDescriptions {
		if len(text) < 4096 {
			f.Add(full(nil, 0, "timer", "0123456789abcdef"), []byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, data, text []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		d, err := ParseDescription(text)
		if err != nil && !known(err) {
			t.Fatalf("error without a sentinel: %v", err)
		}
		list, err := Sections(data, d)
		if err != nil {
			if !known(err) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		at := 0
		for _, s := range list {
			if s.Start != at || s.Payload < s.Start || s.PayloadEnd < s.Payload || s.End != s.PayloadEnd+FooterSize {
				t.Fatalf("section %+v at %d", s, at)
			}
			at = s.End
			if s.State == nil {
				continue
			}
			for v := range s.State.Values() {
				if v.Offset < 0 || v.Size < 0 || v.Offset+v.Size > int64(s.PayloadEnd-s.Payload) {
					t.Fatalf("%+v in section %+v", v, s)
				}
			}
		}
		if at != len(data) {
			t.Fatalf("sections end at %d of %d", at, len(data))
		}
		SetRunState(bytes.Clone(data), "paused")
	})
}

// known reports whether an error has one of the sentinels that callers act on.
func known(err error) bool {
	for _, s := range []error{ErrNotStream, ErrVersion, ErrCorrupt, ErrTruncated, ErrInParts} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}
