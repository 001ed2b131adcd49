// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// smallBlocks make an image with little in it, for tests that read it many times.
var smallBlocks = []Block{{Name: "pc.ram", Length: 70 * PageSize}, {Name: "pc.bios", Length: 3 * PageSize}}

var smallDescription = []byte(`{"page_size": 4096, "devices": []}`)

func sealedImage(t testing.TB, offset int64) (*Layout, *memory, []Bitmap) {
	l := newLayout(t, offset, config, smallBlocks)
	f, bitmaps := sample(t, l, smallDescription)
	addSeal(t, l, f, bitmaps, smallDescription)
	return l, f, bitmaps
}

// verify is what `ramjet verify` does: everything but the pages, then each stored page.
func verify(f *memory) error {
	m, err := Open(f, f.size)
	if err != nil {
		return err
	}
	if err := m.VerifyStream(); err != nil {
		return err
	}
	page := make([]byte, PageSize)
	for i, b := range m.Blocks {
		bitmap, err := m.Bitmap(i)
		if err != nil {
			return err
		}
		sums, err := m.Seal.Sums(i, 0, int(m.Seal.Blocks[i].PagesStored))
		if err != nil {
			return err
		}
		for start, end := range bitmap.Runs(b.Pages()) {
			for p := start; p < end; p++ {
				if err := readAt(f, page, b.PagesOffset+p*PageSize); err != nil {
					return err
				}
				if seal.PageSum(page) != sums[0] {
					return fmt.Errorf("%w: page %d of block %s", ErrDamaged, p, b.Name)
				}
				sums = sums[1:]
			}
		}
	}
	return nil
}

// TestFlippedBits flips single bits wherever the image has something; none may go unnoticed.
func TestFlippedBits(t *testing.T) {
	l, f, bitmaps := sealedImage(t, 100)
	check(t, verify(f))
	m, err := Open(f, f.size)
	check(t, err)
	places := append(m.hashed(), vmstate.Extent{Offset: m.StreamEnd, Length: m.FileSize - m.StreamEnd})
	for i, b := range l.Blocks {
		for start, end := range bitmaps[i].Runs(b.Pages()) {
			places = append(places, vmstate.Extent{Offset: b.PagesOffset + start*PageSize, Length: (end - start) * PageSize})
		}
	}
	n := 10_000
	if testing.Short() {
		n = 500
	}
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		place := places[r.IntN(len(places))]
		at, bit := place.Offset+r.Int64N(place.Length), byte(1)<<r.IntN(8)
		flip(f, at, bit)
		if err := verify(f); !errors.Is(err, ErrImage) {
			t.Errorf("bit %#02x of byte %d, in %+v: %v", bit, at, place, err)
		}
		flip(f, at, bit)
	}
	check(t, verify(f))
	// What means nothing may be anything: a page that is not stored, the gap behind a bitmap, what precedes the stream.
	for _, at := range []int64{0, l.Blocks[0].BitmapOffset + l.Blocks[0].BitmapSize(), l.Blocks[0].PagesOffset + PageSize} {
		flip(f, at, 1)
		if err := verify(f); err != nil {
			t.Errorf("byte %d counts: %v", at, err)
		}
	}
}

func flip(f *memory, at int64, bit byte) {
	b := make([]byte, 1)
	f.ReadAt(b, at)
	b[0] ^= bit
	f.WriteAt(b, at)
}

// TestTruncated cuts a sealed and an unsealed image at every interesting length.
func TestTruncated(t *testing.T) {
	l, f, _ := sealedImage(t, 0)
	m, err := Open(f, f.size)
	check(t, err)
	for size := range f.size {
		inside := slices.ContainsFunc(l.Blocks, func(b Block) bool {
			return size > b.BitmapOffset+b.BitmapSize()+8 && size < b.PagesEnd()-8
		})
		if inside && size%50_000 != 0 {
			continue
		}
		cut := *f
		cut.truncate(size)
		_, err := Open(&cut, cut.size)
		whole := size == m.StreamEnd || size == m.DescriptionOffset-5 // without seal, without description
		if whole != (err == nil) || err != nil && !errors.Is(err, ErrImage) {
			t.Errorf("the first %d bytes of %d: %v", size, f.size, err)
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
		return 0, errBroken
	}
	return b.r.ReadAt(p, at)
}

// TestReadErrors: an error of the disk is not taken for a damaged image.
func TestReadErrors(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		l, f, _ := sealedImage(t, 300)
		m, err := Open(f, f.size)
		check(t, err)
		if !sealed {
			f.truncate(m.StreamEnd)
		}
		for _, e := range append(m.hashed(), vmstate.Extent{Offset: 0, Length: 8}, vmstate.Extent{Offset: m.StreamEnd, Length: f.size - m.StreamEnd}) {
			for at := e.Offset; at < e.End(); at++ {
				r := brokenAt{f, at}
				m, err := Open(r, f.size)
				if err == nil {
					err = readAll(m)
				}
				if err != nil && (!errors.Is(err, errBroken) || errors.Is(err, ErrImage)) {
					t.Fatalf("a read error at byte %d gives %v", at, err)
				}
				if sealed && at >= l.Offset && err == nil {
					t.Fatalf("byte %d is never read", at)
				}
				if _, err := OpenAt(r, f.size, l.Offset); err != nil && !errors.Is(err, errBroken) {
					t.Fatalf("a read error at byte %d gives OpenAt %v", at, err)
				}
			}
		}
	}
}

func readAll(m *Image) error {
	_, err := m.DeviceSections()
	_, err2 := m.Description()
	_, err3 := m.Bitmap(0)
	_, err4 := m.StoredPages(1)
	_, err5 := m.StreamHash()
	var err6 error
	if m.Seal != nil {
		err6 = m.VerifyStream()
	}
	return errors.Join(err, err2, err3, err4, err5, err6)
}

// limited is a file that fails or writes short from its n-th write on.
type limited struct {
	n     int
	short bool
}

func (l *limited) WriteAt(p []byte, _ int64) (int, error) {
	if l.n--; l.n >= 0 {
		return len(p), nil
	}
	if l.short {
		return len(p) - 1, nil
	}
	return 0, errBroken
}

// TestWriteErrors fails each write in turn.
func TestWriteErrors(t *testing.T) {
	l := newLayout(t, 0, config, smallBlocks)
	writes := func(w io.WriterAt) error {
		if err := l.WriteHeaders(w); err != nil {
			return err
		}
		for i, b := range l.Blocks {
			if err := l.WriteBitmap(w, i, NewBitmap(b.Pages())); err != nil {
				return err
			}
		}
		if _, err := l.WriteTail(w, deviceSections(), nil); err != nil {
			return err
		}
		return l.WriteMagic(w)
	}
	n := 0
	for ; ; n++ {
		err := writes(&limited{n: n})
		if err == nil {
			break
		}
		if !errors.Is(err, errBroken) {
			t.Errorf("write %d fails with %v", n, err)
		}
		if err := writes(&limited{n: n, short: true}); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("write %d, short: %v", n, err)
		}
	}
	if n != 6 {
		t.Errorf("%d writes, want 6", n)
	}
}

func TestLayoutRefuses(t *testing.T) {
	shared := vmstate.Config{MachineType: "pc", Capabilities: []string{"mapped-ram"}}
	many := make([]Block, MaxBlocks+1)
	for name, c := range map[string]struct {
		offset int64
		config vmstate.Config
		blocks []Block
	}{
		"negative offset": {-1, config, smallBlocks},
		"no machine":      {0, vmstate.Config{Capabilities: []string{"mapped-ram"}}, smallBlocks},
		"no capability":   {0, vmstate.Config{MachineType: "pc"}, smallBlocks},
		"no blocks":       {0, config, nil},
		"many blocks":     {0, config, many},
		"no name":         {0, config, []Block{{Length: PageSize}}},
		"long name":       {0, config, []Block{{Name: strings.Repeat("x", 256), Length: PageSize}}},
		"escape":          {0, config, []Block{{Name: "\x1b", Length: PageSize}}},
		"same names":      {0, config, []Block{{Name: "a", Length: PageSize}, {Name: "a", Length: PageSize}}},
		"no length":       {0, config, []Block{{Name: "a"}}},
		"odd length":      {0, config, []Block{{Name: "a", Length: PageSize + 1}}},
		"huge":            {0, config, []Block{{Name: "a", Length: MaxBlockLength + PageSize}}},
		"huge pages":      {0, config, []Block{{Name: "a", Length: 2 << 20, PageSize: 2 << 20}}},
		"ignored":         {0, shared, []Block{{Name: "a", Length: PageSize, Ignored: true}}},
	} {
		if _, err := NewLayout(c.offset, c.config, c.blocks); err == nil {
			t.Errorf("%s: laid out", name)
		}
	}
	l := newLayout(t, 0, config, smallBlocks)
	if smallBlocks[0].PagesOffset != 0 {
		t.Error("the caller's blocks were changed")
	}
	if l.Index("pc.bios") != 1 || l.Index("none") != -1 {
		t.Error("Index is wrong")
	}
	l.SectionID = 0
	if l.Arrange() == nil {
		t.Error("a section with id 0 is laid out")
	}
	l.SectionID, l.Early = 1, make([]byte, MaxEarly+1)
	if l.Arrange() == nil {
		t.Error("endless early sections are laid out")
	}
}

// TestSealOfAnother: a seal whose checksums hold, but which is another image's.
func TestSealOfAnother(t *testing.T) {
	l, f, bitmaps := sealedImage(t, 0)
	m, err := Open(f, f.size)
	check(t, err)
	hash := m.Seal.StreamHash
	for name, change := range map[string]func(*seal.Metadata){
		"other hash":    func(s *seal.Metadata) { s.StreamHash[0]++ },
		"fewer blocks":  func(s *seal.Metadata) { s.Blocks = s.Blocks[:1] },
		"other name":    func(s *seal.Metadata) { s.Blocks[0].Name = "other" },
		"other length":  func(s *seal.Metadata) { s.Blocks[0].Length += PageSize },
		"other pages":   func(s *seal.Metadata) { s.Blocks[0].PageSize /= 2 },
		"other count":   func(s *seal.Metadata) { s.Blocks[0].PagesStored-- },
		"other offset":  func(s *seal.Metadata) { s.StreamOffset = 8 },
		"offset beyond": func(s *seal.Metadata) { s.StreamOffset = 1 << 40 },
	} {
		c := f.clone()
		c.truncate(m.StreamEnd)
		meta := &seal.Metadata{StreamHash: hash}
		for i, b := range l.Blocks {
			meta.Blocks = append(meta.Blocks, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: bitmaps[i].Count()})
		}
		change(meta)
		w, err := seal.NewWriter(c, c.size, meta)
		check(t, err)
		check(t, w.AppendSums(make([]uint64, meta.TotalStored())))
		_, _, err = w.Close()
		check(t, err)
		got, err := Open(c, c.size)
		if err == nil {
			if got.Format != "ramjet" {
				t.Errorf("%s: format %q", name, got.Format)
			}
			err = got.VerifyStream()
		}
		if !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenAt(f, f.size, 8); !errors.Is(err, ErrNotImage) {
		t.Errorf("opened where the seal says it is not: %v", err)
	}
	if _, err := OpenAt(f, f.size, f.size+1); !errors.Is(err, ErrNotImage) {
		t.Errorf("opened behind the end: %v", err)
	}
	if err := sealError(fmt.Errorf("it is: %w", seal.ErrNewer)); !errors.Is(err, ErrNewer) || !errors.Is(err, ErrImage) {
		t.Errorf("a newer seal is %v", err)
	}
}

// TestFind puts the stream at offsets on the borders of the pieces in which it is sought.
func TestFind(t *testing.T) {
	blocks := smallBlocks[1:]
	for _, offset := range []int64{1, 8, 4096, 256<<10 - 8, 256<<10 - 7, 256<<10 - 4, 256<<10 - 1, 256 << 10, 1 << 20, 16<<20 - 8} {
		l := newLayout(t, offset, config, blocks)
		f, _ := sample(t, l, nil)
		m, err := Open(f, f.size)
		if err != nil || m.Offset != offset {
			t.Errorf("stream at %d: %v", offset, err)
		}
	}
	for _, offset := range []int64{16 << 20, 17 << 20} {
		l := newLayout(t, offset, config, blocks)
		f, _ := sample(t, l, nil)
		if _, err := Open(f, f.size); !errors.Is(err, ErrNotImage) {
			t.Errorf("stream at %d: %v", offset, err)
		}
		_, err := OpenAt(f, f.size, offset)
		check(t, err)
	}
	// A magic that is followed by nothing sensible does not hide the stream behind it.
	l := newLayout(t, 4096, config, blocks)
	f, _ := sample(t, l, nil)
	f.WriteAt([]byte("QEVM\x00\x00\x00\x03\x07"), 100)
	if m, err := Open(f, f.size); err != nil || m.Offset != 4096 {
		t.Errorf("behind another magic: %v", err)
	}
}

// TestPlainStream refuses QEMU's default format wherever it begins.
func TestPlainStream(t *testing.T) {
	b := vmstate.AppendHeader(nil, vmstate.Config{MachineType: "pc-i440fx-10.0"})
	b = vmstate.AppendSectionStart(b, vmstate.TypeStart, 2, "ram", 0, 4)
	b = append(b, "\x00\x00\x00\x00\x00\x88\x20\x04\x06pc.ram\x00\x00\x00\x00\x00\x80\x00\x00"...)
	for _, lead := range []int{0, 4096} {
		file := append(bytes.Repeat([]byte{'x'}, lead), b...)
		_, err := Open(bytes.NewReader(file), int64(len(file)))
		if !errors.Is(err, ErrPlainStream) || !strings.Contains(err.Error(), "mapped-ram on") {
			t.Errorf("behind %d bytes: %v", lead, err)
		}
	}
}

// TestIncomplete: an image without device state is shown but not used.
func TestIncomplete(t *testing.T) {
	l := newLayout(t, 0, config, smallBlocks)
	f := new(memory)
	check(t, l.WriteHeaders(f))
	check(t, l.WriteMagic(f))
	f.truncate(l.RAMEnd)
	m, err := Open(f, f.size)
	if !errors.Is(err, ErrIncomplete) || m == nil || m.Complete || len(m.Blocks) != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, err := m.DeviceSections(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("it has device state: %v", err)
	}
	if empty, err := m.Empty(); !empty || err != nil {
		t.Errorf("it has pages: %v", err)
	}
	b := NewBitmap(3)
	b.Set(2)
	check(t, l.WriteBitmap(f, 1, b))
	if empty, err := m.Empty(); empty || err != nil {
		t.Errorf("it has no pages: %v", err)
	}
}

func TestIgnoredBlock(t *testing.T) {
	c := vmstate.Config{MachineType: "pc", Capabilities: []string{"x-ignore-shared", "mapped-ram"}}
	l := newLayout(t, 0, c, []Block{{Name: "a", Length: PageSize, Ignored: true}, {Name: "b", Length: PageSize}})
	f, _ := sample(t, l, nil)
	m, err := Open(f, f.size)
	check(t, err)
	if l.WriteBitmap(f, 0, NewBitmap(1)) == nil {
		t.Error("a bitmap of an ignored block is written")
	}
	if _, err := m.Bitmap(0); err == nil {
		t.Error("a bitmap of an ignored block is read")
	}
	if n, err := m.StoredPages(0); n != 0 || err != nil {
		t.Errorf("%d pages of an ignored block, %v", n, err)
	}
	_, err = l.StreamHash(func(int) (Bitmap, error) { return nil, errBroken }, nil, nil)
	if !errors.Is(err, errBroken) {
		t.Errorf("no bitmap, but a hash: %v", err)
	}
	if _, err := l.StreamHash(func(int) (Bitmap, error) { return NewBitmap(65), nil }, nil, nil); err == nil {
		t.Error("a hash over a bitmap that does not fit")
	}
}
