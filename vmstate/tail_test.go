// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

var (
	endOfPart = AppendFooter(binary.BigEndian.AppendUint64(nil, RAMEndOfSection), 2)
	part      = slices.Concat(AppendSectionPart(nil, TypePart, 2), endOfPart)
	last      = slices.Concat(AppendSectionPart(nil, TypeEnd, 2), endOfPart)
	command   = []byte("\x08\x00\x0b\x00\x00")
	early     = full(nil, 37, "0000:00:01.0/virtio-mem-device-early", "\x7e\x00\x00\x00\x25 has the bytes of its footer")
	devices   = full(full(nil, 0, "timer", "abc\x06\x00"), 7, "globalstate", global("running"))
)

func TestParseTail(t *testing.T) {
	for _, c := range []struct {
		name        string
		parts       []byte
		sections    []byte
		description string
	}{
		{"as ramjet writes it", slices.Concat(endOfPart, last), devices, ""},
		{"as QEMU 10 writes it", slices.Concat(endOfPart, part, command, last), devices, `{"devices": []}`},
		{"many parts", slices.Concat(endOfPart, bytes.Repeat(part, 1000), last), devices, `{}`},
		{"a command with content", slices.Concat(endOfPart, []byte("\x08\x00\x01\x00\x03abc"), last), devices, `{}`},
		{"no devices", slices.Concat(endOfPart, last), nil, ""},
		{"no devices, described", slices.Concat(endOfPart, last), nil, `{}`},
		{"a long description", slices.Concat(endOfPart, last), devices, `{"x": "` + strings.Repeat("y", 300_000) + `"}`},
		// Lengths whose head lies on the border between two pieces of the search from the end.
		{"border", slices.Concat(endOfPart, last), devices, `"` + strings.Repeat("y", 64<<10-2) + `"`},
		{"border - 3", slices.Concat(endOfPart, last), devices, `"` + strings.Repeat("y", 64<<10-5) + `"`},
		{"border - 5", slices.Concat(endOfPart, last), devices, `"` + strings.Repeat("y", 64<<10-7) + `"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			const at = 1000
			var description []byte
			if c.description != "" {
				description = []byte(c.description)
			}
			file := AppendEnd(slices.Concat(make([]byte, at), c.parts, c.sections), description)
			end := int64(len(file))
			// What comes behind the stream does not count.
			tail, err := ParseTail(bytes.NewReader(append(file, "more"...)), at, end, 2)
			if err != nil {
				t.Fatal(err)
			}
			if got := file[tail.Sections.Offset:tail.Sections.End()]; !bytes.Equal(got, c.sections) {
				t.Errorf("sections %q, want %q", got, c.sections)
			}
			if got := file[tail.Description.Offset:tail.Description.End()]; string(got) != c.description {
				t.Errorf("description %.80q, want %.80q", got, c.description)
			}
			if tail.End != end {
				t.Errorf("end %d, want %d", tail.End, end)
			}
		})
	}
}

// TestSetupSections is about what stands between START(ram) and its parts: whole sections are accepted, sections in parts are
// named. The length of neither is in the stream.
func TestSetupSections(t *testing.T) {
	start := AppendSectionStart(nil, TypeStart, 5, "dirty-bitmap", 0, 1)
	for _, c := range []struct {
		name   string
		setup  []byte
		behind []byte
		want   error
	}{
		{"one", early, slices.Concat(part, command, last), nil},
		{"two", slices.Concat(early, full(nil, 38, "0000:00:02.0/virtio-mem-device-early", "x")), last, nil},
		{"before a command", early, slices.Concat(command, last), nil},
		{"none, and no parts", nil, nil, nil},
		{"before a section in parts", early, slices.Concat(start, make([]byte, 30)), ErrInParts},
	} {
		file := AppendEnd(slices.Concat(endOfPart, c.setup, c.behind, devices), nil)
		tail, err := ParseTail(bytes.NewReader(file), 0, int64(len(file)), 2)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
			continue
		}
		if err != nil {
			continue
		}
		if got := file[tail.Setup.Offset:tail.Setup.End()]; !bytes.Equal(got, c.setup) {
			t.Errorf("%s: the setup is %q, want %q", c.name, got, c.setup)
		}
		if got := file[tail.Sections.Offset:tail.Sections.End()]; !bytes.Equal(got, devices) {
			t.Errorf("%s: the devices are %q, want %q", c.name, got, devices)
		}
	}
}

// badTails are tails that must be refused, and how.
var badTails = []struct {
	name string
	tail []byte
	want error
}{
	{"empty", nil, ErrTruncated},
	{"hole", make([]byte, 100), ErrTruncated},
	{"flags", append(binary.BigEndian.AppendUint64(nil, 0x200), make([]byte, 20)...), ErrCorrupt},
	{"no-footer", append(binary.BigEndian.AppendUint64(nil, RAMEndOfSection), make([]byte, 20)...), ErrCorrupt},
	{"footer-of-another", AppendFooter(binary.BigEndian.AppendUint64(nil, RAMEndOfSection), 3), ErrCorrupt},
	{"nothing-behind", endOfPart, ErrTruncated},
	{"part-of-another", slices.Concat(endOfPart, AppendSectionPart(nil, TypePart, 9), endOfPart), ErrCorrupt},
	{"cut-part", slices.Concat(endOfPart, part[:3]), ErrTruncated},
	{"cut-command", slices.Concat(endOfPart, command[:3]), ErrTruncated},
	{"cut-command-content", slices.Concat(endOfPart, []byte("\x08\x00\x01\xff\xffabc")), ErrTruncated},
	{"foreign-section", slices.Concat(endOfPart, AppendSectionStart(nil, TypeStart, 5, "dirty-bitmap", 0, 1), make([]byte, 30)), ErrInParts},
	{"cut-foreign-section", slices.Concat(endOfPart, AppendSectionStart(nil, TypeStart, 5, "dirty-bitmap", 0, 1)[:9]), ErrTruncated},
	{"unknown-type", slices.Concat(endOfPart, []byte{0x55}), ErrCorrupt},
	{"no-end", slices.Concat(endOfPart, last, devices), ErrTruncated},
	{"end-without-footer", slices.Concat(endOfPart, last, devices, []byte{9, 0}), ErrTruncated},
	{"cut-description", AppendEnd(slices.Concat(endOfPart, last, devices), []byte(`{"devices": []}`))[:200], ErrTruncated},
	{"description-without-end", slices.Concat(endOfPart, last, devices, []byte("\x06\x00\x00\x00\x02{}")), ErrTruncated},
	{"description-alone", slices.Concat(endOfPart, last, []byte("\x04\x06\x00\x00\x00\x02{}")), ErrTruncated},
}

func TestBadTail(t *testing.T) {
	for _, c := range badTails {
		if tail, err := ParseTail(bytes.NewReader(c.tail), 0, int64(len(c.tail)), 2); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", c.name, tail, err, c.want)
		}
	}
	whole := AppendEnd(slices.Concat(endOfPart, part, command, last, devices), []byte(`{"devices": []}`))
	for n := range whole {
		// Cut right behind the end of the state it is a stream without description.
		if _, err := ParseTail(bytes.NewReader(whole[:n]), 0, int64(n), 2); err == nil && n != len(whole)-len(`12345{"devices": []}`) {
			t.Errorf("the first %d bytes of %d are taken for the whole", n, len(whole))
		}
		// The file is shorter than it was said to be.
		if _, err := ParseTail(bytes.NewReader(whole[:n]), 0, int64(len(whole)), 2); !errors.Is(err, ErrTruncated) {
			t.Errorf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
	if _, err := ParseTail(bytes.NewReader(whole), 10, 9, 2); !errors.Is(err, ErrTruncated) {
		t.Errorf("an end before the beginning: %v", err)
	}
	// An error of the disk is not taken for a damaged stream, wherever it comes.
	for n := range whole {
		_, err := ParseTail(brokenAt{bytes.NewReader(whole), int64(n)}, 0, int64(len(whole)), 2)
		if err != nil && !errors.Is(err, errBroken) {
			t.Errorf("a read error at byte %d gives %v", n, err)
		}
	}
}

var errBroken = errors.New("broken")

// brokenAt fails to read one byte.
type brokenAt struct {
	r  io.ReaderAt
	at int64
}

func (b brokenAt) ReadAt(p []byte, at int64) (int, error) {
	if at <= b.at && b.at < at+int64(len(p)) {
		n, _ := b.r.ReadAt(p[:b.at-at], at)
		return n, errBroken
	}
	return b.r.ReadAt(p, at)
}
