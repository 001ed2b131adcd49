// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// testImage is an image to be made as QEMU would: without a seal.
type testImage struct {
	machine string
	blocks  []mappedram.Block
	// page returns the content of a page, nil if it is not stored.
	page        func(block int, page int64) []byte
	sections    []byte
	description string
}

// smallImage has a block of 4 MiB and two small ones, of which some three quarters are stored.
func smallImage() testImage {
	return testImage{
		machine: "pc-i440fx-10.0",
		blocks:  []mappedram.Block{{Name: "pc.ram", Length: 4 << 20}, {Name: "/rom@etc/acpi/tables", Length: 128 << 10}, {Name: "pc.bios", Length: 4096}},
		page: func(block int, page int64) []byte {
			if (page*7+int64(block))%4 == 1 {
				return nil
			}
			return randomPage(uint64(block), uint64(page))
		},
		sections: testSections(), description: `{"page_size": 4096, "devices": []}`,
	}
}

// randomPage is determined by a and b and has no zero bytes to speak of.
func randomPage(a, b uint64) []byte {
	r := rand.New(rand.NewPCG(a, b))
	p := make([]byte, 0, mappedram.PageSize)
	for len(p) < mappedram.PageSize {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p
}

// testSections is the device state of a VM that ran.
func testSections() []byte {
	b := vmstate.AppendSectionStart(nil, vmstate.TypeFull, 0, "timer", 0, 2)
	b = append(b, make([]byte, 24)...)
	b = vmstate.AppendFooter(b, 0)
	b = vmstate.AppendSectionStart(b, vmstate.TypeFull, 3, "globalstate", 0, 1)
	b = binary.BigEndian.AppendUint32(b, 8)
	b = append(b, "running"...)
	b = append(b, make([]byte, 93)...)
	return vmstate.AppendFooter(b, 3)
}

// write makes the file, in a directory of the test's, and returns its path.
func (i testImage) write(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	config := vmstate.Config{MachineType: i.machine, Capabilities: []string{"mapped-ram"}}
	l, err := mappedram.NewLayout(0, config, i.blocks)
	check(t, err)
	check(t, l.WriteHeaders(f))
	for k, b := range l.Blocks {
		stored := mappedram.NewBitmap(b.Pages())
		for p := range b.Pages() {
			if content := i.page(k, p); content != nil {
				stored.Set(p)
				_, err := f.WriteAt(content, b.PagesOffset+p*b.PageSize)
				check(t, err)
			}
		}
		check(t, l.WriteBitmap(f, k, stored))
	}
	var description []byte
	if i.description != "" {
		description = []byte(i.description)
	}
	_, err = l.WriteTail(f, i.sections, description)
	check(t, err)
	check(t, l.WriteMagic(f))
	return path
}

// sealed makes the file and seals it.
func (i testImage) sealed(t testing.TB) string {
	t.Helper()
	path := i.write(t)
	_, err := Seal(context.Background(), SealOptions{Image: path})
	check(t, err)
	return path
}

// opened opens an image for the rest of a test.
func opened(t testing.TB, path string) *openedImage {
	t.Helper()
	image, err := openImage(path)
	check(t, err)
	t.Cleanup(func() { image.file.Close() })
	return image
}

// change writes bytes into a file.
func change(t testing.TB, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, at)
	check(t, err)
}

// flip flips a bit of a file.
func flip(t testing.TB, path string, bit int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], bit/8)
	check(t, err)
	b[0] ^= 1 << (bit % 8)
	_, err = f.WriteAt(b[:], bit/8)
	check(t, err)
}

// copied copies an image, holes and all.
func copied(t testing.TB, from string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	check(t, err)
	to := filepath.Join(t.TempDir(), fmt.Sprintf("copy-%d", rand.Uint32()))
	check(t, os.WriteFile(to, b, 0o600))
	return to
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
