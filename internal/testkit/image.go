// SPDX-License-Identifier: Apache-2.0

package testkit

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Image is an image to be made as QEMU would.
type Image struct {
	Machine string
	Blocks  []mappedram.Block
	// Page returns the content of a page, nil if it is not stored.
	Page        func(block int, page int64) []byte
	Sections    []byte
	Description string
}

// SmallImage has a block of 4 MiB and two small ones, of which some three quarters are stored.
func SmallImage() Image {
	return Image{
		Machine: "pc-i440fx-10.0",
		Blocks:  []mappedram.Block{{Name: "pc.ram", Length: 4 << 20}, {Name: "/rom@etc/acpi/tables", Length: 128 << 10}, {Name: "pc.bios", Length: 4096}},
		Page: func(block int, page int64) []byte {
			if (page*7+int64(block))%4 == 1 {
				return nil
			}
			return RandomPage(uint64(block), uint64(page))
		},
		Sections: Sections(), Description: `{"page_size": 4096, "devices": []}`,
	}
}

// RandomPage is determined by a and b and has no zero bytes to speak of.
func RandomPage(a, b uint64) []byte {
	r := rand.New(rand.NewPCG(a, b))
	p := make([]byte, 0, mappedram.PageSize)
	for len(p) < mappedram.PageSize {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p
}

// Sections is the device state of a VM that ran.
func Sections() []byte {
	b := vmstate.AppendSectionStart(nil, vmstate.TypeFull, 0, "timer", 0, 2)
	b = append(b, make([]byte, 24)...)
	b = vmstate.AppendFooter(b, 0)
	b = vmstate.AppendSectionStart(b, vmstate.TypeFull, 3, "globalstate", 0, 1)
	b = binary.BigEndian.AppendUint32(b, 8)
	b = append(b, "running"...)
	b = append(b, make([]byte, 93)...)
	return vmstate.AppendFooter(b, 3)
}

// Write makes the file, without a seal, in a directory of the test's, and returns its path.
func (i Image) Write(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	Check(t, err)
	defer f.Close()
	i.writeTo(t, f)
	return path
}

// writeTo writes the stream, and returns where it ends and which pages it has.
func (i Image) writeTo(t testing.TB, f *os.File) (l *mappedram.Layout, end int64, stored []mappedram.Bitmap) {
	t.Helper()
	l, err := mappedram.NewLayout(0, vmstate.Config{MachineType: i.Machine, Capabilities: []string{"mapped-ram"}}, i.Blocks)
	Check(t, err)
	Check(t, l.WriteHeaders(f))
	for k, b := range l.Blocks {
		bits := mappedram.NewBitmap(b.Pages())
		for p := range b.Pages() {
			if content := i.Page(k, p); content != nil {
				bits.Set(p)
				if bytes.Equal(content, zeroPage) {
					continue // a hole
				}
				_, err := f.WriteAt(content, b.PagesOffset+p*b.PageSize)
				Check(t, err)
			}
		}
		Check(t, l.WriteBitmap(f, k, bits))
		stored = append(stored, bits)
	}
	var description []byte
	if i.Description != "" {
		description = []byte(i.Description)
	}
	end, err = l.WriteTail(f, i.Sections, description)
	Check(t, err)
	Check(t, l.WriteMagic(f))
	return l, end, stored
}

// Sealed makes the file and seals it as one of QEMU's.
func (i Image) Sealed(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	Check(t, err)
	defer f.Close()
	l, end, stored := i.writeTo(t, f)
	i.seal(t, f, l, end, stored, &seal.Metadata{Format: "qemu", MachineType: i.Machine, WasRunning: true})
	return path
}

// seal puts a seal behind the stream.
func (i Image) seal(t testing.TB, f *os.File, l *mappedram.Layout, end int64, stored []mappedram.Bitmap, m *seal.Metadata) seal.ID {
	t.Helper()
	var err error
	var description []byte
	if i.Description != "" {
		description = []byte(i.Description)
	}
	m.StreamHash, err = l.StreamHash(func(k int) (mappedram.Bitmap, error) { return stored[k], nil }, i.Sections, description)
	Check(t, err)
	for k, b := range l.Blocks {
		m.Blocks = append(m.Blocks, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: stored[k].Count()})
	}
	w, err := seal.NewWriter(f, end, m)
	Check(t, err)
	for k, b := range l.Blocks {
		for first, last := range stored[k].Runs(b.Pages()) {
			for p := first; p < last; p++ {
				Check(t, w.AppendSums([]uint64{seal.PageSum(i.Page(k, p))}))
			}
		}
	}
	id, _, err := w.Close()
	Check(t, err)
	return id
}

// Handmade writes a sealed image of Ramjet's with two blocks, "ram" of 3 MiB and "rom" of 256 KiB, of which pages[block][page] says with what
// bytes each page is filled; 0 is a hole, and a page that is not in it is not stored. base is nil for an image that is whole.
func Handmade(t testing.TB, path string, base *seal.Base, pages [2]map[int64]byte) seal.ID {
	t.Helper()
	i := Image{Machine: "pc", Blocks: []mappedram.Block{{Name: "ram", Length: 3 << 20}, {Name: "rom", Length: 256 << 10}}}
	i.Page = func(block int, page int64) []byte {
		v, ok := pages[block][page]
		if !ok {
			return nil
		}
		return bytes.Repeat([]byte{v}, mappedram.PageSize)
	}
	f, err := os.Create(path)
	Check(t, err)
	defer f.Close()
	l, end, stored := i.writeTo(t, f)
	return i.seal(t, f, l, end, stored, &seal.Metadata{Format: "ramjet", MachineType: i.Machine, Base: base})
}

var zeroPage = make([]byte, mappedram.PageSize)
