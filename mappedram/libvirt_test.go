// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

// libvirtHeader makes a header as libvirt does; dataLen is what it says of the length of data.
func libvirtHeader(magic string, order binary.AppendByteOrder, version, dataLen, running, format, cookie uint32, data string) []byte {
	b := []byte(magic)
	for _, v := range []uint32{version, dataLen, running, format, cookie} {
		b = order.AppendUint32(b, v)
	}
	return append(append(b, make([]byte, 56)...), data...)
}

const (
	domain = "<domain type='kvm'><name>a</name></domain>\x00"
	cookie = "<qemusave/>\x00"
	data   = domain + cookie + "\x00\x00\x00\x00\x00"
)

// libvirtCases are headers and what reading them, and opening the file, says.
var libvirtCases = []struct {
	name string
	file []byte
	want error // of ReadLibvirt
	open error // of Open, where nothing follows the header
}{
	{"sparse", libvirtHeader(libvirtDone, binary.LittleEndian, 2, uint32(len(data)), 1, 6, uint32(len(domain)), data), nil, ErrNotImage},
	{"big-endian", libvirtHeader(libvirtDone, binary.BigEndian, 2, uint32(len(data)), 1, 6, uint32(len(domain)), data), nil, ErrNotImage},
	{"no-cookie", libvirtHeader(libvirtDone, binary.LittleEndian, 1, uint32(len(data)), 0, 6, 0, data), nil, ErrNotImage},
	{"part", libvirtHeader(libvirtPart, binary.LittleEndian, 2, uint32(len(data)), 1, 6, uint32(len(domain)), data), nil, ErrIncomplete},
	{"raw", libvirtHeader(libvirtDone, binary.LittleEndian, 2, uint32(len(data)), 1, 0, 0, data), nil, ErrPlainStream},
	{"zstd", libvirtHeader(libvirtDone, binary.LittleEndian, 2, uint32(len(data)), 1, 5, 0, data), nil, ErrPlainStream},
	{"unknown-format", libvirtHeader(libvirtDone, binary.LittleEndian, 2, uint32(len(data)), 1, 1<<31, 0, data), nil, ErrPlainStream},
	{"version-0", libvirtHeader(libvirtDone, binary.LittleEndian, 0, uint32(len(data)), 1, 6, 0, data), ErrNewer, ErrNewer},
	{"version-3", libvirtHeader(libvirtDone, binary.LittleEndian, 3, uint32(len(data)), 1, 6, 0, data), ErrNewer, ErrNewer},
	{"no-data", libvirtHeader(libvirtDone, binary.LittleEndian, 2, 0, 1, 6, 0, data), ErrDamaged, ErrDamaged},
	{"huge-data", libvirtHeader(libvirtDone, binary.LittleEndian, 2, 1<<31, 1, 6, 0, data), ErrDamaged, ErrDamaged},
	{"cookie-beyond", libvirtHeader(libvirtDone, binary.LittleEndian, 2, uint32(len(data)), 1, 6, 1<<31, data), ErrDamaged, ErrDamaged},
	{"cut", libvirtHeader(libvirtDone, binary.LittleEndian, 2, uint32(len(data)), 1, 6, 0, data[:9]), ErrIncomplete, ErrIncomplete},
	{"cut-header", libvirtHeader(libvirtDone, binary.LittleEndian, 2, 0, 1, 6, 0, "")[:91], ErrNotImage, ErrNotImage},
	{"other", bytes.Repeat([]byte("x"), 100), ErrNotImage, ErrNotImage},
}

func TestReadLibvirt(t *testing.T) {
	for _, c := range libvirtCases {
		r, size := bytes.NewReader(c.file), int64(len(c.file))
		l, err := ReadLibvirt(r, size)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", c.name, l, err, c.want)
		}
		if _, err := Open(r, size); !errors.Is(err, c.open) {
			t.Errorf("%s opens as %v, want %v", c.name, err, c.open)
		}
	}
	for _, c := range libvirtCases[:2] {
		l, err := ReadLibvirt(bytes.NewReader(c.file), int64(len(c.file)))
		check(t, err)
		want := Libvirt{Version: 2, Complete: true, WasRunning: true, Format: "sparse", XML: strings.TrimSuffix(domain, "\x00"), Cookie: strings.TrimSuffix(cookie, "\x00"), StreamOffset: int64(92 + len(data))}
		if *l != want {
			t.Errorf("%s: %+v, want %+v", c.name, *l, want)
		}
	}
}

// TestLibvirtImage opens an image that begins behind the header, at an odd offset.
func TestLibvirtImage(t *testing.T) {
	header := libvirtCases[0].file
	l := newLayout(t, int64(len(header)), config, workedBlocks)
	f, bitmaps := sample(t, l, nil)
	f.WriteAt(header, 0)
	m, err := Open(f, f.size)
	check(t, err)
	if m.Format != "libvirt" || m.Offset != int64(len(header)) || m.Libvirt.XML == "" || !m.Complete {
		t.Errorf("opened as %+v", m)
	}
	// Sealed, it remains libvirt's.
	addSeal(t, l, f, bitmaps, nil)
	m, err = Open(f, f.size)
	check(t, err)
	check(t, m.VerifyStream())
	if m.Libvirt == nil || m.Seal == nil {
		t.Errorf("opened as %+v", m)
	}
}

// FuzzReadLibvirt: a header lies inside its file; a file without or with a bad one is refused with ErrImage.
func FuzzReadLibvirt(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		l, err := ReadLibvirt(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrImage) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if l.StreamOffset <= libvirtSize || l.StreamOffset > int64(len(b)) || len(l.XML)+len(l.Cookie) > len(b) {
			t.Fatalf("%+v in %d bytes", l, len(b))
		}
	})
}
