// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		want   string
	}{
		{"no configuration", Config{}, "QEVM\x00\x00\x00\x03"},
		{"machine only", Config{MachineType: "microvm"}, "QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x07microvm"},
		// The first bytes of a file of QEMU 10.0.2.
		{"mapped-ram", Config{MachineType: "pc-i440fx-10.0", Capabilities: []string{"mapped-ram"}},
			"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x0epc-i440fx-10.0" +
				"\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\x00\x00\x00\x01\x0amapped-ram"},
		{"everything", Config{MachineType: "virt-10.0", PageBits: 12, Capabilities: []string{"x-ignore-shared", "mapped-ram"}, UUID: []byte("0123456789abcdef")},
			"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x09virt-10.0" +
				"\x05\x1econfiguration/target-page-bits\x00\x00\x00\x01\x00\x00\x00\x0c" +
				"\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\x00\x00\x00\x02\x0fx-ignore-shared\x0amapped-ram" +
				"\x05\x12configuration/uuid\x00\x00\x00\x010123456789abcdef"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := AppendHeader(nil, c.config)
			if string(b) != c.want {
				t.Fatalf("header %q, want %q", b, c.want)
			}
			// With and without something behind it, and through readers of every kind.
			for _, rest := range []string{"", "\x01rest"} {
				text := string(b) + rest
				for kind, r := range map[string]io.Reader{
					"scanner": strings.NewReader(text), "plain": io.MultiReader(strings.NewReader(text)),
					"byte by byte": iotest.OneByteReader(strings.NewReader(text)), "with EOF": iotest.DataErrReader(strings.NewReader(text)),
				} {
					got, n, err := ReadHeader(r)
					if err != nil || n != int64(len(b)) || !reflect.DeepEqual(got, c.config) {
						t.Errorf("%s: read %+v, %d bytes of %d, %v", kind, got, n, len(b), err)
					}
					if s, ok := r.(*strings.Reader); ok && s.Len() != len(rest) {
						t.Errorf("%s: %d bytes left, want %d", kind, s.Len(), len(rest))
					}
				}
			}
		})
	}
	if c := (Config{Capabilities: []string{"mapped-ram"}}); !c.Has("mapped-ram") || c.Has("x-ignore-shared") {
		t.Error("Has is wrong")
	}
}

// badHeaders are headers that must be refused, and how.
var badHeaders = []struct {
	name, text string
	want       error
}{
	{"empty", "", ErrNotStream},
	{"short", "QEVM\x00", ErrNotStream},
	{"other", "MVEQ\x00\x00\x00\x03", ErrNotStream},
	{"version-2", "QEVM\x00\x00\x00\x02", ErrVersion},
	{"version-4", "QEVM\x00\x00\x00\x04", ErrVersion},
	{"no-length", "QEVM\x00\x00\x00\x03\x07\x00\x00", ErrTruncated},
	{"huge-name", "QEVM\x00\x00\x00\x03\x07\xff\xff\xff\xff", ErrCorrupt},
	{"long-name", "QEVM\x00\x00\x00\x03\x07\x00\x00\x01\x01" + strings.Repeat("x", 300), ErrCorrupt},
	{"empty-name", "QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x00", ErrCorrupt},
	{"escape-in-name", "QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x02\x1bc", ErrCorrupt},
	{"cut-name", "QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x09pc", ErrTruncated},
	{"unknown-subsection", pc + "\x05\x03abc\x00\x00\x00\x01", ErrCorrupt},
	{"subsection-version", pc + "\x05\x12configuration/uuid\x00\x00\x00\x020123456789abcdef", ErrCorrupt},
	{"cut-subsection", pc + "\x05\x12configuration", ErrTruncated},
	{"cut-uuid", pc + "\x05\x12configuration/uuid\x00\x00\x00\x010123", ErrTruncated},
	{"two-uuids", pc + strings.Repeat("\x05\x12configuration/uuid\x00\x00\x00\x010123456789abcdef", 2), ErrCorrupt},
	{"page-bits", pc + "\x05\x1econfiguration/target-page-bits\x00\x00\x00\x01\x00\x00\x00\xff", ErrCorrupt},
	{"many-capabilities", pc + "\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\xff\xff\xff\xff", ErrCorrupt},
	{"empty-capability", pc + "\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\x00\x00\x00\x01\x00", ErrCorrupt},
	{"cut-capability", pc + "\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\x00\x00\x00\x02\x01x", ErrTruncated},
}

const pc = "QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x02pc"

func TestBadHeader(t *testing.T) {
	for _, c := range badHeaders {
		if _, n, err := ReadHeader(strings.NewReader(c.text)); !errors.Is(err, c.want) || n > int64(len(c.text)) {
			t.Errorf("%s: %v after %d bytes, want %v", c.name, err, n, c.want)
		}
	}
	// An error of the disk is not taken for a damaged stream.
	broken := errors.New("broken")
	whole := AppendHeader(nil, Config{MachineType: "pc", Capabilities: []string{"mapped-ram"}})
	for n := range len(whole) + 1 {
		_, _, err := ReadHeader(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("a read error after %d bytes gives %v", n, err)
		}
	}
}
