// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// memory is a sparse file in memory: tests have images of many megabytes, most of it holes.
type memory struct {
	chunks map[int64][]byte // by offset / chunkSize
	size   int64
}

const chunkSize = 4096

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if m.chunks == nil {
		m.chunks = map[int64][]byte{}
	}
	m.size = max(m.size, at+int64(len(b)))
	for i := 0; i < len(b); {
		p := at + int64(i)
		c := m.chunks[p/chunkSize]
		if c == nil {
			c = make([]byte, chunkSize)
			m.chunks[p/chunkSize] = c
		}
		i += copy(c[p%chunkSize:], b[i:])
	}
	return len(b), nil
}

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	n := int(max(0, min(int64(len(b)), m.size-at)))
	clear(b[:n])
	for i := 0; i < n; {
		p := at + int64(i)
		k := int(min(int64(n-i), chunkSize-p%chunkSize))
		if c := m.chunks[p/chunkSize]; c != nil {
			copy(b[i:i+k], c[p%chunkSize:])
		}
		i += k
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// clone copies the file, so that a test can damage it.
func (m *memory) clone() *memory {
	c := &memory{chunks: map[int64][]byte{}, size: m.size}
	for k, v := range m.chunks {
		c.chunks[k] = bytes.Clone(v)
	}
	return c
}

func (m *memory) truncate(size int64) { m.size = size }

// config is that of the worked example.
var config = vmstate.Config{MachineType: "pc-i440fx-10.0", Capabilities: []string{"mapped-ram"}}

// workedBlocks are those of `qemu-system-x86_64 -machine pc -m 8M -nodefaults` in QEMU 10.0.2.
var workedBlocks = []Block{
	{Name: "pc.ram", Length: 0x800000},
	{Name: "/rom@etc/acpi/tables", Length: 0x20000},
	{Name: "pc.bios", Length: 0x40000},
	{Name: "pc.rom", Length: 0x20000},
	{Name: "/rom@etc/table-loader", Length: 0x1000},
	{Name: "/rom@etc/acpi/rsdp", Length: 0x1000},
}

// deviceSections is a run of FULL sections as QEMU would write it.
func deviceSections() []byte {
	var b []byte
	b = vmstate.AppendSectionStart(b, vmstate.TypeFull, 0, "timer", 0, 2)
	b = append(b, make([]byte, 24)...)
	b = vmstate.AppendFooter(b, 0)
	b = vmstate.AppendSectionStart(b, vmstate.TypeFull, 3, "globalstate", 0, 1)
	b = binary.BigEndian.AppendUint32(b, 8)
	b = append(b, "running"...)
	b = append(b, make([]byte, 93)...)
	return vmstate.AppendFooter(b, 3)
}

// sample writes an image of l in which page 0 and every third page of each block are stored, filled with their number.
func sample(t testing.TB, l *Layout, description []byte) (*memory, []Bitmap) {
	t.Helper()
	f := new(memory)
	check(t, l.WriteHeaders(f))
	var bitmaps []Bitmap
	for i, b := range l.Blocks {
		m := NewBitmap(b.Pages())
		bitmaps = append(bitmaps, m)
		if b.Ignored {
			continue
		}
		for p := int64(0); p < b.Pages(); p += 3 {
			m.Set(p)
			f.WriteAt(bytes.Repeat([]byte{byte(p + 1)}, PageSize), b.PagesOffset+p*PageSize)
		}
		check(t, l.WriteBitmap(f, i, m))
	}
	end, err := l.WriteTail(f, deviceSections(), description)
	check(t, err)
	if end != f.size {
		t.Fatalf("the tail ends at %d, the file at %d", end, f.size)
	}
	check(t, l.WriteMagic(f))
	return f, bitmaps
}

// file is what a test writes an image to and reads it from.
type file interface {
	io.ReaderAt
	io.WriterAt
}

// addSeal seals the image in f, whose stream ends where f does, without reading anything but its pages.
func addSeal(t testing.TB, l *Layout, f *memory, bitmaps []Bitmap, description []byte) {
	t.Helper()
	hash, err := l.StreamHash(func(i int) (Bitmap, error) { return bitmaps[i], nil }, deviceSections(), description)
	check(t, err)
	check(t, appendSeal(f, &Image{Layout: l, StreamEnd: f.size}, bitmaps, hash))
}

// appendSeal writes a seal with that hash behind the stream of m.
func appendSeal(f file, m *Image, bitmaps []Bitmap, hash seal.Hash) error {
	meta := &seal.Metadata{Format: "ramjet", StreamOffset: m.Offset, StreamHash: hash}
	for i, b := range m.Blocks {
		meta.Blocks = append(meta.Blocks, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: bitmaps[i].Count()})
	}
	w, err := seal.NewWriter(f, m.StreamEnd, meta)
	if err != nil {
		return err
	}
	page := make([]byte, PageSize)
	for i, b := range m.Blocks {
		for start, end := range bitmaps[i].Runs(b.Pages()) {
			for p := start; p < end; p++ {
				if err := readAt(f, page, b.PagesOffset+p*PageSize); err != nil {
					return err
				}
				if err := w.AppendSums([]uint64{seal.PageSum(page)}); err != nil {
					return err
				}
			}
		}
	}
	_, _, err = w.Close()
	return err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLayout(t testing.TB, offset int64, c vmstate.Config, blocks []Block) *Layout {
	t.Helper()
	l, err := NewLayout(offset, c, blocks)
	check(t, err)
	return l
}

// TestWorkedExample holds the layout to what QEMU 10.0.2 wrote, byte for byte.
func TestWorkedExample(t *testing.T) {
	l := newLayout(t, 0, config, workedBlocks)
	f, _ := sample(t, l, nil)
	start := "QEVM\x00\x00\x00\x03" + "\x07\x00\x00\x00\x0epc-i440fx-10.0" +
		"\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\x00\x00\x00\x01\x0amapped-ram" +
		"\x01\x00\x00\x00\x01\x03ram\x00\x00\x00\x00\x00\x00\x00\x04" +
		"\x00\x00\x00\x00\x00\x88\x20\x04" +
		"\x06pc.ram\x00\x00\x00\x00\x00\x80\x00\x00" +
		"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x8e\x00\x00\x00\x00\x00\x10\x00\x00"
	got := make([]byte, len(start))
	f.ReadAt(got, 0)
	if string(got) != start {
		t.Errorf("the file begins\n%q, want\n%q", got, start)
	}
	for i, want := range []struct{ header, bitmap, pages int64 }{
		{0x63, 0x8e, 0x100000}, {0x900000, 0x900039, 0xa00000}, {0xa20000, 0xa2002c, 0xb00000},
		{0xb40000, 0xb4002b, 0xc00000}, {0xc20000, 0xc2003a, 0xd00000}, {0xd01000, 0xd01037, 0xe00000},
	} {
		if b := l.Blocks[i]; b.HeaderOffset != want.header || b.BitmapOffset != want.bitmap || b.PagesOffset != want.pages {
			t.Errorf("block %s: header %#x, bitmap %#x, pages %#x, want %#x", b.Name, b.HeaderOffset, b.BitmapOffset, b.PagesOffset, want)
		}
	}
	if l.RAMEnd != 0xe01000 {
		t.Errorf("memory ends at %#x, want 0xe01000", l.RAMEnd)
	}
	tail := make([]byte, 13+18)
	f.ReadAt(tail, l.RAMEnd)
	want := "\x00\x00\x00\x00\x00\x00\x00\x10\x7e\x00\x00\x00\x01\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x10\x7e\x00\x00\x00\x01"
	if string(tail) != want {
		t.Errorf("behind the pages %q, want %q", tail, want)
	}
}

// TestLayoutOfBigBlocks: a bitmap may be longer than the alignment, and what a block's offsets were does not count.
func TestLayoutOfBigBlocks(t *testing.T) {
	c := vmstate.Config{MachineType: "pc", Capabilities: []string{"x-ignore-shared", "mapped-ram"}}
	l := newLayout(t, 0, c, []Block{
		{Name: "big", Length: 64 << 30}, {Name: "out", Length: PageSize, Ignored: true, BitmapOffset: 1, PagesOffset: 2}, {Name: "small", Length: PageSize}})
	big, out, small := l.Blocks[0], l.Blocks[1], l.Blocks[2]
	if big.BitmapSize() != 2<<20 || big.PagesOffset != 3<<20 {
		t.Errorf("big block %+v", big)
	}
	if out.BitmapOffset != 0 || out.PagesOffset != 0 || out.HeaderOffset != big.PagesEnd() {
		t.Errorf("block that is left out %+v", out)
	}
	if want := out.HeaderOffset + 1 + 3 + 8 + 8 + 28; small.HeaderOffset != want || l.Total() != 64<<30+2*PageSize || l.RAMEnd != small.PagesEnd() {
		t.Errorf("small block %+v, want it at %d", small, want)
	}
}

// TestRoundTrip opens what was written, in every form that this package writes.
func TestRoundTrip(t *testing.T) {
	shared := vmstate.Config{MachineType: "pc-q35-10.0", PageBits: 12, Capabilities: []string{"x-ignore-shared", "mapped-ram"}, UUID: bytes.Repeat([]byte{7}, 16)}
	decoy := string(vmstate.AppendSectionStart(nil, vmstate.TypeStart, 5, "ram", 0, 4))
	early := vmstate.AppendFooter(append(vmstate.AppendSectionStart(nil, vmstate.TypeFull, 9, "virtio-mem-early", 0, 1), "abc"+decoy+"def"...), 9)
	for name, c := range map[string]struct {
		config      vmstate.Config
		offset      int64
		blocks      []Block
		early       []byte
		description string
		sealed      bool
	}{
		"plain":       {config: config, blocks: workedBlocks},
		"description": {config: config, blocks: workedBlocks, description: `{"devices": []}`},
		"offset":      {config: config, blocks: workedBlocks, offset: 4097},
		"far":         {config: config, blocks: workedBlocks[1:2], offset: 9<<20 + 1},
		"sealed":      {config: config, blocks: workedBlocks, description: `{"devices": []}`, sealed: true},
		"sealed, far": {config: config, blocks: workedBlocks[1:3], offset: 32<<20 + 5, sealed: true},
		"long name":   {config: config, blocks: []Block{{Name: strings.Repeat("n", 255), Length: PageSize}, {Name: strings.Repeat("m", 254), Length: PageSize}}},
		"early":       {config: config, blocks: workedBlocks[3:], early: early},
		"shared": {config: shared, blocks: []Block{
			{Name: "ram0", Length: 1 << 30, Ignored: true, GuestAddress: 1 << 32}, {Name: "rom", Length: 65 * PageSize, GuestAddress: 0xe0000}}, sealed: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout(t, c.offset, c.config, c.blocks)
			l.Early = c.early
			check(t, l.Arrange())
			var description []byte
			if c.description != "" {
				description = []byte(c.description)
			}
			f, bitmaps := sample(t, l, description)
			streamEnd := f.size
			if c.sealed {
				addSeal(t, l, f, bitmaps, description)
			}
			m, err := Open(f, f.size)
			check(t, err)
			if !m.Complete || m.StreamEnd != streamEnd || m.Offset != c.offset || m.RAMEnd != l.RAMEnd || m.SectionID != 1 || (m.Seal != nil) != c.sealed {
				t.Errorf("opened as %+v of %+v", m.Layout, m)
			}
			if !slices.Equal(m.Blocks, l.Blocks) {
				t.Errorf("blocks %+v, want %+v", m.Blocks, l.Blocks)
			}
			if !bytes.Equal(m.Early, c.early) {
				t.Errorf("early sections %q, want %q", m.Early, c.early)
			}
			for i, b := range m.Blocks {
				if b.Ignored {
					continue
				}
				got, err := m.Bitmap(i)
				check(t, err)
				if !slices.Equal(got, bitmaps[i]) {
					t.Errorf("block %s has another bitmap", b.Name)
				}
			}
			sections, err := m.DeviceSections()
			check(t, err)
			if !bytes.Equal(sections, deviceSections()) {
				t.Errorf("device sections %q", sections)
			}
			text, err := m.Description()
			check(t, err)
			if string(text) != c.description {
				t.Errorf("description %q, want %q", text, c.description)
			}
			want, err := l.StreamHash(func(i int) (Bitmap, error) { return bitmaps[i], nil }, sections, description)
			check(t, err)
			if got, err := m.StreamHash(); err != nil || got != want {
				t.Errorf("hash %v, %v, want %v", got, err, want)
			}
			if err := m.VerifyStream(); c.sealed && err != nil || !c.sealed && !errors.Is(err, seal.ErrNoSeal) {
				t.Errorf("verifies as %v", err)
			}
			again, err := OpenAt(f, f.size, c.offset)
			if err != nil || again.RAMEnd != m.RAMEnd {
				t.Errorf("opened at %d: %v", c.offset, err)
			}
		})
	}
}
