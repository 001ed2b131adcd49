// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// exported exports an image and returns the result and where it is.
func exported(t *testing.T, o Options) (*Result, string) {
	t.Helper()
	if o.Out == "" {
		o.Out = filepath.Join(t.TempDir(), "out")
	}
	r, err := Export(context.Background(), o)
	testkit.Check(t, err)
	return r, o.Out
}

// content is what a block's memory has to be.
func content(i testkit.Image, block int) []byte {
	var b bytes.Buffer
	for p := range i.Blocks[block].Length / mappedram.PageSize {
		if c := i.Page(block, p); c != nil {
			b.Write(c)
		} else {
			b.Write(make([]byte, mappedram.PageSize))
		}
	}
	return b.Bytes()
}

func TestExportRaw(t *testing.T) {
	t.Parallel()
	i := testkit.SmallImage()
	for _, path := range []string{i.Write(t), i.Sealed(t)} {
		r, dir := exported(t, Options{Image: path, Format: Raw})
		for k, b := range i.Blocks {
			got, err := os.ReadFile(r.Files[k].Path)
			if err != nil || r.Files[k].Block != b.Name || !bytes.Equal(got, content(i, k)) {
				t.Errorf("block %s in %+v is not what it was, %v", b.Name, r.Files[k], err)
			}
		}
		img := filepath.Join(t.TempDir(), "imported")
		_, err := Import(context.Background(), ImportOptions{Dir: dir, Image: img})
		testkit.Check(t, err)
		checkSame(t, path, img)
		description, err := opened(t, img).Description()
		if err != nil || string(description) != i.Description {
			t.Errorf("description %q, %v", description, err)
		}
		if _, err := Export(context.Background(), Options{Image: path, Format: Raw, Out: dir}); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("over another export: %v", err)
		}
	}
}

func TestExportFileNames(t *testing.T) {
	t.Parallel()
	var taken []ManifestBlock
	for _, c := range [][2]string{{"pc.ram", "pc.ram.raw"}, {"/rom@etc/acpi/tables", "rom@etc_acpi_tables.raw"}, {"../../etc/passwd", "etc_passwd.raw"}, {"etc/passwd", "etc_passwd-2.raw"}, {"ä b", "b.raw"}, {"...", "block.raw"}} {
		got := fileName(c[0], taken)
		if got != c[1] || !filepath.IsLocal(got) || strings.Contains(got, "/") {
			t.Errorf("%q goes to %q, want %q", c[0], got, c[1])
		}
		taken = append(taken, ManifestBlock{File: got})
	}
}

// TestExportELF reads a core with Go's own reader.
func TestExportELF(t *testing.T) {
	t.Parallel()
	i := testkit.SmallImage()
	cpu := make([]byte, cpuKnown+100)
	for k := range cpu {
		cpu[k] = byte(k)
	}
	bits32 := cpu[cpuHidden+2] &^ 0x40
	cpu[cpuHidden+2] = bits32 | 0x40 // long mode
	i.Sections = append(i.Sections, vmstate.AppendSectionStart(nil, vmstate.TypeFull, 5, "cpu", 0, 12)...)
	i.Sections = vmstate.AppendFooter(append(i.Sections, cpu...), 5)
	note, noteAt := vmcoreinfo(&i)
	r, path := exported(t, Options{Image: i.Sealed(t), Format: ELF})
	if r.CPUs != 1 || len(r.LeftOut) != 2 {
		t.Errorf("%+v", r)
	}
	f, err := elf.Open(path)
	testkit.Check(t, err)
	defer f.Close()
	if f.Type != elf.ET_CORE || f.Machine != elf.EM_X86_64 || len(f.Progs) != 2 || f.Progs[0].Type != elf.PT_NOTE {
		t.Fatalf("%+v", f)
	}
	load := f.Progs[1]
	memory := make([]byte, load.Filesz)
	_, err = load.ReadAt(memory, 0)
	if err != nil || load.Paddr != 0 || load.Memsz != 4<<20 || !bytes.Equal(memory, content(i, 0)) {
		t.Errorf("memory of %+v is not what it was, %v", load.ProgHeader, err)
	}
	notes := make([]byte, f.Progs[0].Filesz)
	_, err = f.Progs[0].ReadAt(notes, 0)
	testkit.Check(t, err)
	le, be := binary.LittleEndian, binary.BigEndian
	if le.Uint32(notes[4:]) != 336 || le.Uint32(notes[8:]) != 1 || string(notes[12:17]) != "CORE\x00" {
		t.Fatalf("notes begin with %q", notes[:24])
	}
	status := notes[20:]
	if rip := le.Uint64(status[112+16*8:]); rip != be.Uint64(cpu[128:]) {
		t.Errorf("rip is %#x", rip)
	}
	if rsp := le.Uint64(status[112+19*8:]); rsp != be.Uint64(cpu[4*8:]) {
		t.Errorf("rsp is %#x", rsp)
	}
	if !bytes.HasSuffix(notes, note) {
		t.Errorf("the notes end with %q, want %q (at %#x)", notes[max(0, len(notes)-len(note)):], note, noteAt)
	}
	second := notes[20+336 : len(notes)-len(note)]
	if le.Uint32(second[4:]) != qemuStateSize || string(second[12:17]) != "QEMU\x00" || len(second) != 20+qemuStateSize {
		t.Errorf("the second note begins with %q, %d bytes", second[:24], len(second))
	}
	if cr3 := le.Uint64(second[20+8+18*8+10*24+3*8:]); cr3 != be.Uint64(cpu[cpuControl+16:]) {
		t.Errorf("cr3 is %#x", cr3)
	}
}

// vmcoreinfo has the guest of an image write a note for its core, over the border of two pages, and returns the note.
func vmcoreinfo(i *testkit.Image) (note []byte, at int64) {
	var b bytes.Buffer
	appendNote(&b, "VMCOREINFO", 0, bytes.Repeat([]byte("OSRELEASE=6.1\n"), 20))
	note, at = b.Bytes(), 8*4096+4000
	page := i.Page
	i.Page = func(block int, n int64) []byte {
		if block != 0 || n != 8 && n != 9 {
			return page(block, n)
		}
		both := make([]byte, 2*4096)
		copy(both[4000:], note)
		return both[(n-8)*4096 : (n-7)*4096]
	}
	be := binary.BigEndian
	section := be.AppendUint16(be.AppendUint16([]byte{1}, 0), elfNoteFormat)
	section = be.AppendUint64(be.AppendUint32(section, uint32(len(note)+40)), uint64(at))
	i.Sections = append(i.Sections, vmstate.AppendSectionStart(nil, vmstate.TypeFull, 6, vmcoreinfoSection, 0, 1)...)
	i.Sections = vmstate.AppendFooter(append(i.Sections, section...), 6)
	return note, at
}

// TestGuestNoteHostile has the guest say things of its note that are not so.
func TestGuestNoteHostile(t *testing.T) {
	t.Parallel()
	be := binary.BigEndian
	section := func(has byte, format uint16, size uint32, at uint64) []byte {
		b := be.AppendUint16(be.AppendUint16([]byte{has}, 0), format)
		return be.AppendUint64(be.AppendUint32(b, size), at)
	}
	for name, b := range map[string][]byte{
		"nothing": section(0, 1, 100, 4096), "another format": section(1, 2, 100, 4096), "too small": section(1, 1, 11, 4096),
		"too large": section(1, 1, 1<<31, 4096), "nowhere": section(1, 1, 100, 1<<63), "cut": section(1, 1, 100, 4096)[:16],
	} {
		if n := parseGuestNote(b); n != (guestNote{}) {
			t.Errorf("%s: %+v", name, n)
		}
	}
	image, err := image.Open(testkit.SmallImage().Write(t), "", nil)
	testkit.Check(t, err)
	defer image.Close()
	ranges := []cmdline.PhysicalRange{{Block: "pc.ram", Length: 4 << 20}}
	for _, n := range []guestNote{{0, 100}, {4<<20 - 50, 100}, {1 << 52, 100}} { // random bytes, the end, nowhere
		if b, err := n.read(image, ranges); err != nil || b != nil {
			t.Errorf("%+v: %d bytes, %v", n, len(b), err)
		}
	}
}

// TestExportELFSplit has the memory lie on both sides of the gap below 4 GiB.
func TestExportELFSplit(t *testing.T) {
	t.Parallel()
	i := testkit.SmallImage()
	i.Machine = "pc-q35-10.0"
	i.Blocks[0].Length = 3 << 30
	interesting := map[int64]bool{0: true, 0x80000000/4096 - 1: true, 0x80000000 / 4096: true, 3<<30/4096 - 1: true}
	i.Page = func(block int, page int64) []byte {
		if block == 0 && interesting[page] {
			return testkit.RandomPage(0, uint64(page))
		}
		return nil
	}
	r, path := exported(t, Options{Image: i.Write(t), Format: ELF})
	if len(r.Segments) != 2 || r.Segments[1].Address != 1<<32 || r.Segments[1].Offset != 0x80000000 {
		t.Fatalf("%+v", r.Segments)
	}
	f, err := elf.Open(path)
	testkit.Check(t, err)
	defer f.Close()
	for page := range interesting {
		at := uint64(page * 4096)
		if at >= 0x80000000 {
			at += 1<<32 - 0x80000000
		}
		found := false
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && p.Paddr <= at && at < p.Paddr+p.Filesz {
				b := make([]byte, 4096)
				_, err := p.ReadAt(b, int64(at-p.Paddr))
				found = err == nil && bytes.Equal(b, testkit.RandomPage(0, uint64(page)))
			}
		}
		if !found {
			t.Errorf("page %d is not at %#x", page, at)
		}
	}
}

// TestExportELFMemory has to be told which blocks are the main memory.
func TestExportELFMemory(t *testing.T) {
	t.Parallel()
	i := testkit.SmallImage()
	i.Blocks[0].Name, i.Blocks[1].Name = "m0", "m1"
	path := i.Write(t)
	o := Options{Image: path, Format: ELF, Out: filepath.Join(t.TempDir(), "core")}
	if _, err := Export(context.Background(), o); err == nil || !strings.Contains(err.Error(), "--memory") {
		t.Errorf("without being told: %v", err)
	}
	o.Memory = []string{"m1", "m2"}
	if _, err := Export(context.Background(), o); err == nil || !strings.Contains(err.Error(), `no memory "m2"`) {
		t.Errorf("told wrongly: %v", err)
	}
	o.Memory = []string{"m1", "m0"}
	r, err := Export(context.Background(), o)
	testkit.Check(t, err)
	want := []Segment{{0, i.Blocks[1].Length, "m1", 0}, {i.Blocks[1].Length, i.Blocks[0].Length, "m0", 0}}
	if !slices.Equal(r.Segments, want) {
		t.Errorf("%+v, want %+v", r.Segments, want)
	}
	i.Machine = "virt-10.0"
	o.Image, o.Force = i.Write(t), true
	if _, err := Export(context.Background(), o); err == nil || !strings.Contains(err.Error(), "virt-10.0") {
		t.Errorf("a machine that is not known: %v", err)
	}
}

func TestExportFlat(t *testing.T) {
	i := testkit.SmallImage()
	page := i.Page
	i.Page = func(block int, p int64) []byte {
		if p%3 == 0 {
			return make([]byte, 4096)
		}
		return page(block, p)
	}
	path := i.Write(t)
	_, out := exported(t, Options{Image: path, Format: Flat})
	checkSame(t, path, out)
	if before, after := opened(t, path), opened(t, out); after.Seal == nil {
		t.Error("it is not sealed")
	} else if n, _ := before.StoredPages(0); after.Seal.Blocks[0].PagesStored >= n {
		t.Errorf("%d pages are stored, %d before", after.Seal.Blocks[0].PagesStored, n)
	}
	if r, err := image.Verify(context.Background(), image.VerifyOptions{Image: out}); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestExportDamaged leaves nothing behind.
func TestExportDamaged(t *testing.T) {
	path := testkit.SmallImage().Sealed(t)
	testkit.Flip(t, path, 8*opened(t, path).Blocks[0].PagesOffset)
	for _, f := range []Format{Raw, ELF, Flat} {
		o := Options{Image: path, Format: f, Out: filepath.Join(t.TempDir(), "out")}
		if f == Raw {
			o.Block = "pc.ram"
		}
		_, err := Export(context.Background(), o)
		if err == nil && f == Flat {
			// Where files can share extents nobody looks at the pages. The new image has the old one's sums.
			if _, err := image.Verify(context.Background(), image.VerifyOptions{Image: o.Out}); !errors.Is(err, mappedram.ErrDamaged) {
				t.Errorf("verify of the flat image: %v", err)
			}
			continue
		}
		if !errors.Is(err, mappedram.ErrDamaged) {
			t.Errorf("%s: %v", f, err)
		}
		if entries, err := os.ReadDir(filepath.Dir(o.Out)); err != nil || len(entries) != 0 {
			t.Errorf("%s leaves %v, %v", f, entries, err)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	_, dir := exported(t, Options{Image: testkit.SmallImage().Sealed(t), Format: Raw})
	manifest, err := os.ReadFile(filepath.Join(dir, manifestName))
	testkit.Check(t, err)
	for _, c := range []struct{ from, to, want string }{
		{`"format_version": 1`, `"format_version": 2`, "format_version 2"},
		{`"pc.ram.raw"`, `"../pc.ram.raw"`, "not in the directory"},
		{`"pc.ram.raw"`, `"/etc/passwd"`, "not in the directory"},
		{`"pc.ram.raw"`, `"absent"`, "absent"},
		{`"pc.ram.raw"`, `"image.json"`, "fewer than"},
		{`4194304`, `4190208`, "more than"},
		{`4194304`, `-4096`, "cannot lay out"},
		{`4194304`, `4194305`, "cannot lay out"},
		{`"pc.bios"`, `"pc.ram"`, "two blocks"},
		{`pc-i440fx-10.0`, ``, "machine type"},
		{`"device-state"`, `"pc.bios.raw"`, "xen-save-devices-state"},
		{`"description.json"`, `"pc.bios.raw"`, "pc.bios.raw"},
		{`{`, `[`, "image.json"},
	} {
		text := strings.Replace(string(manifest), c.from, c.to, 1)
		if text == string(manifest) {
			t.Fatalf("there is no %s in %s", c.from, manifest)
		}
		testkit.Check(t, os.WriteFile(filepath.Join(dir, manifestName), []byte(text), 0o600))
		image := filepath.Join(t.TempDir(), "image")
		if r, err := Import(context.Background(), ImportOptions{Dir: dir, Image: image}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: %+v, %v, want %q", c.from, c.to, r, err, c.want)
		}
		if _, err := os.Stat(image); err == nil {
			t.Errorf("%s -> %s leaves an image", c.from, c.to)
		}
	}
}

// checkSame checks that two images have the same memory and device state.
func checkSame(t *testing.T, a, b string) {
	t.Helper()
	x, y := opened(t, a), opened(t, b)
	if len(x.Blocks) != len(y.Blocks) {
		t.Fatalf("%d blocks and %d", len(x.Blocks), len(y.Blocks))
	}
	pages := func(m *image.File, block int) []uint64 {
		s, err := image.NewPageSums(m, nil)
		testkit.Check(t, err)
		sums := make([]uint64, m.Blocks[block].Pages())
		testkit.Check(t, s.Window(context.Background(), block, 0, sums))
		return sums
	}
	for i := range x.Blocks {
		if x.Blocks[i].Name != y.Blocks[i].Name || !slices.Equal(pages(x, i), pages(y, i)) {
			t.Errorf("block %s is not block %s", x.Blocks[i].Name, y.Blocks[i].Name)
		}
	}
	one, err := x.DeviceSections()
	testkit.Check(t, err)
	other, err := y.DeviceSections()
	testkit.Check(t, err)
	if !bytes.Equal(one, other) {
		t.Error("the device states differ")
	}
}

// opened opens an image for the rest of a test.
func opened(t testing.TB, path string) *image.File {
	t.Helper()
	img, err := image.OpenFile(path, nil)
	testkit.Check(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}
