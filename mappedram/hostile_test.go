// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/test/allocs"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// A hostile image is a small one with two blocks of a page each, changed. Offsets in it:
const (
	atVersion = 4                    // be32, of the stream
	atTotal   = 0x5b                 // be64
	atFirst   = atTotal + 8          // header of block "a"
	atLength  = atFirst + 2          // be64
	atHeader  = atLength + 8         // be32 version, be64 page size, be64 bitmap, be64 pages
	atBitmap  = atHeader + 28        // 8 bytes
	atPages   = 0x100000             // one page
	atSecond  = atPages + PageSize   // header of block "b"
	atPages2  = 2 * 0x100000         // one page
	atTail    = atPages2 + PageSize  //
	atDevices = atTail + 13 + 18 + 4 //
)

func be32(at int64, v uint32) func(*memory) {
	return func(f *memory) { f.WriteAt(binary.BigEndian.AppendUint32(nil, v), at) }
}

func be64(at int64, v uint64) func(*memory) {
	return func(f *memory) { f.WriteAt(binary.BigEndian.AppendUint64(nil, v), at) }
}

func text(at int64, s string) func(*memory) {
	return func(f *memory) { f.WriteAt([]byte(s), at) }
}

func cut(size int64) func(*memory) { return func(f *memory) { f.truncate(size) } }

// hostile are all the ways in which an image can be wrong that this package knows, QEMU's own reader's weak points
// among them: it divides by a page size of 0, takes any other, takes a header of version 0, and reads beyond blocks.
var hostile = []struct {
	name   string
	change func(*memory)
	want   error
	says   string // part of the sentence
}{
	{"good", func(*memory) {}, nil, ""},
	{"page-size-0", be64(atHeader+4, 0), ErrDamaged, `block "a" has pages of 0 bytes`},
	{"page-size-8192", be64(atHeader+4, 8192), ErrUnsupported, `block "a" has pages of 8192 bytes; only 4096`},
	{"page-size-4097", be64(atHeader+4, 4097), ErrDamaged, "no power of two"},
	{"page-size-huge", be64(atHeader+4, 1<<63), ErrUnsupported, "pages of 9223372036854775808 bytes"},
	{"header-version-0", be32(atHeader, 0), ErrDamaged, `block "a" has a mapped-ram header of version 0`},
	{"header-version-2", be32(atHeader, 2), ErrNewer, "use a newer ramjet"},
	{"bitmap-over-header", be64(atHeader+12, atBitmap-1), ErrDamaged, "over headers"},
	{"bitmap-at-0", be64(atHeader+12, 0), ErrDamaged, "over headers"},
	{"bitmap-over-pages", be64(atHeader+12, atPages), ErrDamaged, "over its bitmap"},
	{"bitmap-beyond", func(f *memory) { be64(atHeader+12, 1<<40)(f); be64(atHeader+20, 1<<41)(f) }, ErrDamaged, "bitmap at offset 1099511627776, beyond"},
	{"bitmap-huge", be64(atHeader+12, 1<<63), ErrDamaged, "bitmap at offset"},
	{"pages-unaligned", be64(atHeader+20, atPages+512), ErrDamaged, "no multiple of 4096"},
	{"pages-over-bitmap", be64(atHeader+20, 0), ErrDamaged, "over its bitmap"},
	{"pages-beyond", be64(atHeader+20, 1<<40), ErrDamaged, `block "a" has its pages at offset 1099511627776`},
	{"pages-huge", be64(atHeader+20, 1<<63), ErrDamaged, "its pages at"},
	{"pages-overflow", be64(atHeader+20, 1<<63-PageSize), ErrDamaged, "its pages at"},
	{"offsets-0", func(f *memory) { be64(atHeader+12, 0)(f); be64(atHeader+20, 0)(f) }, ErrDamaged, "over headers"},
	{"pages-over-next", be64(atHeader+20, atPages+PageSize), ErrIncomplete, "nothing was written at offset"},
	{"pages-same-as-other", be64(atSecond+2+8+20, atPages), ErrDamaged, `block "b"`},
	{"length-0", be64(atLength, 0), ErrDamaged, "has no bytes"},
	{"length-odd", be64(atLength, 4000), ErrDamaged, "no multiple of its page size"},
	{"length-huge", be64(atLength, 1<<63), ErrDamaged, "more than the"},
	{"length-huge-total-too", func(f *memory) { be64(atLength, 1<<50)(f); be64(atTotal, 1<<51|4)(f) }, ErrUnsupported, "more than"},
	{"length-beyond-file", func(f *memory) { be64(atLength, 1<<40)(f); be64(atTotal, 1<<40+PageSize|4)(f) }, ErrDamaged, "over its bitmap"},
	{"total-short", be64(atTotal, PageSize|4), ErrDamaged, "flags"},
	{"total-long", be64(atTotal, 3*PageSize|4), ErrDamaged, "4096 bytes short of the sum"},
	{"total-0", be64(atTotal, 4), ErrDamaged, "flags"},
	{"total-negative", be64(atTotal, 1<<63|4), ErrDamaged, "flags"},
	{"total-flags", be64(atTotal, 2*PageSize|8), ErrDamaged, "flags"},
	{"same-names", text(atSecond+1, "a"), ErrDamaged, `two blocks of memory have the name "a"`},
	{"name-with-escape", text(atFirst+1, "\x1b"), ErrDamaged, `has the name "\x1b"`},
	{"name-empty", text(atFirst, "\x00\x01"), ErrDamaged, "has the name"},
	{"bits-behind-block", text(atBitmap, "\xff"), nil, ""}, // found when the bitmap is read
	{"stream-version-2", be32(atVersion, 2), ErrUnsupported, "obsolete"},
	{"stream-version-4", be32(atVersion, 4), ErrUnsupported, "version 4"},
	{"machine-name-huge", be32(9, 1<<31), ErrDamaged, "2147483648 bytes"},
	{"capability-unknown-count", be32(0x3b, 1<<31), ErrDamaged, "capabilities"},
	{"not-mapped", text(0x40, "another-ca"), ErrPlainStream, "capability mapped-ram"},
	{"section-not-ram", text(0x50, "rom"), ErrDamaged, `no section "ram"`},
	{"section-version", be32(0x57, 3), ErrDamaged, "instance and version"},
	{"section-type", text(0x4a, "\x55"), ErrDamaged, "0x55"},
	{"no-magic", text(0, "xxxxxxxx"), ErrNotImage, "no QEMU migration stream"},
	{"unpublished", text(0, "\x00\x00\x00\x00\x00\x00\x00\x00"), ErrIncomplete, "the save was interrupted"},
	{"cut-0", cut(0), ErrNotImage, ""},
	{"cut-in-magic", cut(5), ErrNotImage, ""},
	{"cut-in-configuration", cut(0x20), ErrIncomplete, ""},
	{"cut-before-ram", cut(0x4a), ErrIncomplete, ""},
	{"cut-in-start", cut(0x5d), ErrIncomplete, ""},
	{"cut-in-block-header", cut(atHeader + 3), ErrIncomplete, "header of a block"},
	{"cut-in-bitmap", cut(atBitmap + 3), ErrIncomplete, `the pages of block "a"`},
	{"cut-in-pages", cut(atPages + 100), ErrIncomplete, `the pages of block "a"`},
	{"cut-before-second", cut(atSecond), ErrIncomplete, "header of a block"},
	{"cut-before-tail", cut(atTail), ErrIncomplete, "ends"},
	{"cut-in-devices", cut(atDevices), ErrIncomplete, ""},
	{"hole-for-second", text(atSecond, strings.Repeat("\x00", 60)), ErrIncomplete, "nothing was written"},
	{"hole-for-tail", text(atTail, strings.Repeat("\x00", 60)), ErrIncomplete, "nothing was written"},
	{"tail-flags", be64(atTail, 0x200), ErrDamaged, "where the memory should end"},
	{"tail-footer", be32(atTail+9, 9), ErrDamaged, "no footer"},
	{"seal-magic-alone", func(f *memory) { f.WriteAt([]byte("RAMJSEAL"+strings.Repeat("\x00", 120)), f.size) }, ErrDamaged, "seal is damaged"},
	{"many-magics", func(f *memory) { f.WriteAt(bytes.Repeat([]byte("QEVM\x00\x00\x00\x03"), 100), 0); text(0, "x")(f) }, ErrNotImage, "many beginnings"},
}

// hostileImage makes the image of one case.
func hostileImage(t testing.TB, change func(*memory)) *memory {
	l := newLayout(t, 0, config, []Block{{Name: "a", Length: PageSize}, {Name: "b", Length: PageSize}})
	f, _ := sample(t, l, nil)
	if b := l.Blocks[1]; l.Blocks[0].BitmapOffset != atBitmap || b.HeaderOffset != atSecond || b.PagesOffset != atPages2 || l.RAMEnd != atTail {
		t.Fatalf("the layout is %+v", l)
	}
	change(f)
	return f
}

func TestHostile(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			f := hostileImage(t, c.change)
			check := allocs.AtMost(t, 16<<20)
			for name, open := range map[string]func() (*Image, error){
				"Open":   func() (*Image, error) { return Open(f, f.size) },
				"OpenAt": func() (*Image, error) { return OpenAt(f, f.size, 0) },
			} {
				m, err := open()
				want := c.want
				if name == "OpenAt" && (c.name == "unpublished" || c.name == "many-magics") {
					want = ErrNotImage // it was told where the stream is
				}
				if !errors.Is(err, want) || (err != nil && !errors.Is(err, ErrImage)) {
					t.Errorf("%s: %v, want %v", name, err, want)
				}
				if err != nil && name == "Open" && !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s says %q, want %q in it", name, err, c.says)
				}
				if m != nil && err != nil && (!errors.Is(err, ErrIncomplete) || m.Complete) {
					t.Errorf("%s returns an image with the error %v", name, err)
				}
			}
			check()
		})
	}
}

func TestBitsBehindBlock(t *testing.T) {
	f := hostileImage(t, text(atBitmap, "\xff"))
	m, err := Open(f, f.size)
	check(t, err)
	if _, err := m.Bitmap(0); !errors.Is(err, ErrDamaged) {
		t.Errorf("a bitmap with bits behind the block's end: %v", err)
	}
	if _, err := m.StoredPages(0); !errors.Is(err, ErrDamaged) {
		t.Errorf("its pages are counted: %v", err)
	}
	if _, err := m.Empty(); !errors.Is(err, ErrDamaged) {
		t.Errorf("it is looked at: %v", err)
	}
}

// TestManyBlocks: the sum of lengths alone does not bound the number of blocks.
func TestManyBlocks(t *testing.T) {
	l := &Layout{Config: config, SectionID: 1}
	c := vmstate.Config{MachineType: "pc", Capabilities: []string{"x-ignore-shared", "mapped-ram"}}
	for i := range MaxBlocks {
		l.Blocks = append(l.Blocks, Block{Name: fmt.Sprint(i), Length: PageSize, Ignored: true})
	}
	l.Config = c
	check(t, l.Arrange())
	f, _ := sample(t, l, nil)
	if m, err := Open(f, f.size); err != nil || len(m.Blocks) != MaxBlocks {
		t.Errorf("%d blocks: %v", MaxBlocks, err)
	}
	// One more, as nobody would lay it out.
	more := l.blockHeader(Block{Name: "more", Length: PageSize, PageSize: PageSize})
	f.WriteAt(more, l.RAMEnd)
	at := int64(len(vmstate.AppendHeader(nil, c))) + int64(5+len(ramStart))
	be64(at, uint64(MaxBlocks+1)*PageSize|flagSize)(f)
	if _, err := Open(f, f.size); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "more than 4096 blocks") {
		t.Errorf("%d blocks: %v", MaxBlocks+1, err)
	}
}

var update = flag.Bool("update", false, "write testdata/fuzz anew")

// TestCorpus holds the fuzzer's corpus in testdata to the cases in code, so that each is in the repository by name.
func TestCorpus(t *testing.T) {
	for _, c := range hostile {
		f := hostileImage(t, c.change)
		head, tail := make([]byte, min(f.size, 1024)), make([]byte, max(0, f.size-atSecond))
		f.ReadAt(head, 0)
		f.ReadAt(tail, atSecond)
		second, end := split(tail, 1024), split(tail[min(len(tail), atTail-atSecond):], len(tail))
		corpus(t, "FuzzOpen", c.name, fmt.Sprintf("int64(%d)\n[]byte(%q)\n[]byte(%q)\n[]byte(%q)\n", f.size, head, second, end))
	}
	for _, c := range libvirtCases {
		corpus(t, "FuzzReadLibvirt", c.name, fmt.Sprintf("[]byte(%q)\n", c.file))
	}
}

func split(b []byte, n int) []byte { return b[:min(n, len(b))] }

func corpus(t *testing.T, target, name, values string) {
	t.Helper()
	path := filepath.Join("testdata", "fuzz", target, name)
	want := "go test fuzz v1\n" + values
	if *update {
		check(t, os.MkdirAll(filepath.Dir(path), 0o777))
		check(t, os.WriteFile(path, []byte(want), 0o666))
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is not as in code (%v); go test -update writes it", path, err)
	}
}

// FuzzOpen: an image that opens is consistent and can be read; one that does not is refused with ErrImage. The file is
// given by its size and what is at the places of the hostile images' parts; the rest is a hole.
func FuzzOpen(f *testing.F) {
	l := newLayout(f, 0, config, []Block{{Name: "a", Length: PageSize}, {Name: "b", Length: PageSize}})
	sealed, bitmaps := sample(f, l, []byte(`{"devices": []}`))
	addSeal(f, l, sealed, bitmaps, []byte(`{"devices": []}`))
	head, second, tail := make([]byte, 256), make([]byte, 64), make([]byte, sealed.size-atTail)
	sealed.ReadAt(head, 0)
	sealed.ReadAt(second, atSecond)
	sealed.ReadAt(tail, atTail)
	f.Add(sealed.size, head, second, tail)
	f.Fuzz(func(t *testing.T, size int64, head, second, tail []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		file := new(memory)
		file.WriteAt(head, 0)
		file.WriteAt(second, atSecond)
		file.WriteAt(tail, atTail)
		file.truncate(min(max(size, 0), 1<<44))
		m, err := Open(file, file.size)
		if err != nil && !errors.Is(err, ErrImage) {
			t.Fatalf("refused with %v", err)
		}
		if m == nil {
			return
		}
		checkImage(t, m)
	})
}

// checkImage checks what the package promises of an image that was opened.
func checkImage(t *testing.T, m *Image) {
	at := m.Offset
	for i, b := range m.Blocks {
		if b.Length <= 0 || b.PageSize != PageSize || b.HeaderOffset < at {
			t.Fatalf("block %+v", b)
		}
		if b.Ignored {
			continue
		}
		if b.BitmapOffset <= b.HeaderOffset || b.PagesOffset < b.BitmapOffset+b.BitmapSize() || b.PagesOffset%PageSize != 0 || b.PagesEnd() > m.StreamEnd {
			t.Fatalf("block %+v", b)
		}
		at = b.PagesEnd()
		if b.Length < 1<<30 {
			if _, err := m.Bitmap(i); err != nil && !errors.Is(err, ErrImage) {
				t.Fatal(err)
			}
		}
	}
	if m.RAMEnd < at || m.StreamEnd > m.FileSize {
		t.Fatalf("memory ends at %d, the stream at %d of %d", m.RAMEnd, m.StreamEnd, m.FileSize)
	}
	if !m.Complete {
		return
	}
	if m.SectionsOffset < m.RAMEnd || m.SectionsOffset+m.SectionsLength > m.StreamEnd || m.DescriptionOffset+m.DescriptionLength > m.StreamEnd {
		t.Fatalf("device state at %d, %d bytes, description at %d, %d bytes, of %d", m.SectionsOffset, m.SectionsLength, m.DescriptionOffset, m.DescriptionLength, m.StreamEnd)
	}
	for _, e := range m.hashed() {
		if e.Length < 0 || e.End() > m.StreamEnd {
			t.Fatalf("hashed: %+v", e)
		}
	}
	if m.SectionsLength < 1<<20 {
		sections, err := m.DeviceSections()
		if err != nil {
			t.Fatal(err)
		}
		vmstate.Sections(sections, nil)
	}
	if _, err := m.Description(); err != nil {
		t.Fatal(err)
	}
}
