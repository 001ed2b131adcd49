// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// each runs a test for memory of each kind and, where that is asked for pages, with each way to ask.
func each(t *testing.T, test func(t *testing.T, g *guest, m Memory)) {
	for _, kind := range kinds {
		for _, old := range []bool{false, true} {
			name := kind
			if old {
				name += ", entries of pagemap"
			}
			if old && kind != "anonymous" && !isPrivateFile(kind) {
				continue
			}
			t.Run(name, func(t *testing.T) {
				g := newGuest(t, kind)
				m := g.open(ReadWrite)
				if old {
					pagemapOf(m).old.Store(true)
				}
				test(t, g, m)
				if p := pagemapOf(m); p != nil && p.old.Load() != old {
					t.Log("this kernel has no PAGEMAP_SCAN")
				}
			})
		}
	}
}

func pagemapOf(m Memory) *pagemap {
	switch m := m.(type) {
	case *private:
		return m.pages
	case *privateFile:
		return m.pages
	}
	return nil
}

// scribble does at random what a guest does to its memory.
func scribble(g *guest, n int) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for range n {
		first, length := r.IntN(pages), 1+r.IntN(20)
		for i := first; i < min(first+length, pages); i++ {
			switch r.IntN(6) {
			case 0:
				g.do("read", i, 0)
			case 1:
				g.do("write", i, 0)
			case 2:
				g.do("drop", i, 0)
			default:
				g.do("write", i, byte(1+r.IntN(255)))
			}
		}
	}
}

// collect takes ranges and checks that they rise, are apart and within.
func collect(t *testing.T, ranges iter.Seq2[Range, error], within Range) (got []Range) {
	t.Helper()
	at := within.Start - 1
	for r, err := range ranges {
		if err != nil {
			t.Fatal(err)
		}
		if r.Start <= at || r.End > within.End || r.Len() <= 0 || r.Start%PageSize != 0 || r.End%PageSize != 0 {
			t.Fatalf("range %v after %v, within %v", r, got, within)
		}
		at = r.End - 1
		got = append(got, r)
	}
	return got
}

func covers(ranges []Range, page int) bool {
	at := int64(page) * PageSize
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Start <= at && at < r.End })
}

// TestAgainstOracle reads memory of each kind, in pieces and as a whole. What is not populated has to be zero, and looking
// must not make anything exist.
func TestAgainstOracle(t *testing.T) {
	each(t, func(t *testing.T, g *guest, m Memory) {
		all := Range{End: pages * PageSize}
		if m.Size() != all.End {
			t.Fatalf("it has %d bytes", m.Size())
		}
		scribble(g, 60)
		before := collect(t, m.Populated(all), all)
		got := make([]byte, all.End)
		if err := m.Read(got, 0); err != nil {
			t.Fatal(err)
		}
		hidden := 0
		for i, seed := range g.seeds {
			if !bytes.Equal(got[i*PageSize:(i+1)*PageSize], pattern(i, seed)) {
				t.Fatalf("page %d is not of seed %d", i, seed)
			}
			if covers(before, i) {
				continue
			}
			if seed != 0 {
				t.Fatalf("page %d has something and is not populated", i)
			}
			hidden++
		}
		if hidden < pages/10 {
			t.Errorf("only %d of %d pages are not populated", hidden, pages)
		}
		if g.kind != "anonymous" { // where reading a hole maps the zero page, which is no page
			if after := collect(t, m.Populated(all), all); !slices.Equal(before, after) {
				t.Errorf("looking at it made %v of %v", after, before)
			}
		}
		parts(t, g, m)
	})
}

// parts compares what parts of the memory say with what the whole does.
func parts(t *testing.T, g *guest, m Memory) {
	t.Helper()
	all := Range{End: pages * PageSize}
	whole := collect(t, m.Populated(all), all)
	r := rand.New(rand.NewPCG(7, 7))
	for range 30 {
		first := r.IntN(pages)
		n := 1 + r.IntN(pages-first)
		within := Range{int64(first) * PageSize, int64(first+n) * PageSize}
		ranges := collect(t, m.Populated(within), within)
		for i := first; i < first+n; i++ {
			if covers(ranges, i) != covers(whole, i) {
				t.Fatalf("page %d: populated is %v in %v and %v in all", i, covers(ranges, i), within, covers(whole, i))
			}
		}
		p := make([]byte, PageSize)
		if err := m.Read(p, within.Start); err != nil || !bytes.Equal(p, pattern(first, g.seeds[first])) {
			t.Fatalf("page %d alone: %v", first, err)
		}
	}
	for _, off := range []int64{-1, all.End - 100, 1 << 62} {
		if m.Read(make([]byte, PageSize), off) == nil || m.Write(make([]byte, PageSize), off) == nil {
			t.Errorf("offset %d was taken", off)
		}
	}
}

// TestChanged tells what a process has made its own of a file's pages.
func TestChanged(t *testing.T) {
	each(t, func(t *testing.T, g *guest, m Memory) {
		c, ok := m.(Changed)
		if ok != isPrivateFile(g.kind) {
			t.Fatalf("it is Changed: %v", ok)
		}
		if !ok {
			return
		}
		want := map[int]bool{}
		for i := range pages {
			switch i % 11 {
			case 3:
				g.do("write", i, byte(i%250)+1)
				want[i] = true
			case 5:
				g.do("read", i, 0)
			case 7:
				g.do("write", i, baseSeed(i)) // its own although the same
				want[i] = true
			case 9:
				g.do("write", i, 9)
				g.do("drop", i, 0)
			}
		}
		all := Range{End: pages * PageSize}
		ranges := collect(t, c.Changed(all), all)
		var total int64
		for _, r := range ranges {
			total += r.Len()
		}
		p := make([]byte, total)
		if err := c.ReadChanged(p, ranges); err != nil {
			t.Fatal(err)
		}
		for i := range pages {
			if covers(ranges, i) != want[i] {
				t.Fatalf("page %d is changed: %v, want %v", i, covers(ranges, i), want[i])
			}
			if want[i] {
				if !bytes.Equal(p[:PageSize], pattern(i, g.seeds[i])) {
					t.Fatalf("page %d is read wrong", i)
				}
				p = p[PageSize:]
			}
		}
		if b := c.Backing(); b.Inode == 0 || b.Path == "" || b.Offset%PageSize != 0 {
			t.Errorf("backing %+v", b)
		}
	})
}

// TestWrite changes memory from outside; the process sees it, and a file beneath a private mapping does not change.
func TestWrite(t *testing.T) {
	each(t, func(t *testing.T, g *guest, m Memory) {
		scribble(g, 10)
		for _, i := range []int{0, 1, 500, 777, pages - 1} {
			if err := m.Write(pattern(i, 200), int64(i)*PageSize); err != nil {
				t.Fatal(err)
			}
			g.seeds[i] = 200
		}
		again := g.open(Read) // another way to the same
		got := make([]byte, pages*PageSize)
		if err := again.Read(got, 0); err != nil {
			t.Fatal(err)
		}
		for i, seed := range g.seeds {
			if !bytes.Equal(got[i*PageSize:(i+1)*PageSize], pattern(i, seed)) {
				t.Fatalf("page %d is not of seed %d", i, seed)
			}
		}
		if isPrivateFile(g.kind) {
			g.do("drop", 777, 0)
			p := make([]byte, PageSize)
			if err := m.Read(p, 777*PageSize); err != nil || !bytes.Equal(p, pattern(777, baseSeed(777))) {
				t.Errorf("the file beneath was changed: %v", err)
			}
		}
	})
}

// TestSplit opens memory whose mapping the kernel has in pieces, as it does after madvise(2) and mbind(2).
func TestSplit(t *testing.T) {
	each(t, func(t *testing.T, g *guest, _ Memory) {
		for _, i := range []int{0, 3, 200, 201, pages - 1} {
			g.do("split", i, 0)
			g.do("write", i, 5)
		}
		m := g.open(Read)
		p := make([]byte, 3*PageSize)
		if err := m.Read(p, 199*PageSize); err != nil {
			t.Fatal(err)
		}
		for k := range 3 {
			if !bytes.Equal(p[k*PageSize:(k+1)*PageSize], pattern(199+k, g.seeds[199+k])) {
				t.Errorf("page %d differs", 199+k)
			}
		}
	})
}

// TestOnlyRead: pages that were read and never written are no pages of anonymous memory, where the kernel can tell.
func TestOnlyRead(t *testing.T) {
	g := newGuest(t, "anonymous")
	m := g.open(Read)
	for i := 100; i < 200; i++ {
		g.do("read", i, 0)
	}
	g.do("write", 150, 1)
	all := Range{End: pages * PageSize}
	ranges := collect(t, m.Populated(all), all)
	if pagemapOf(m).old.Load() {
		t.Skip("this kernel has no PAGEMAP_SCAN")
	}
	if readingAllocates(t) {
		t.Skip("this kernel gives who reads a page of its own")
	}
	if len(ranges) != 1 || ranges[0] != (Range{150 * PageSize, 151 * PageSize}) {
		t.Errorf("populated are %v", ranges)
	}
}

// readingAllocates reports whether a page of this process that was only read is its own, as on kernels that map no page of zeros: then
// it is mapped exclusively (bit 56, Documentation/admin-guide/mm/pagemap.rst).
func readingAllocates(t *testing.T) bool {
	t.Helper()
	page, err := unix.Mmap(-1, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	if page[0] != 0 {
		t.Fatal("new memory is not zero")
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(uintptr(unsafe.Pointer(&page[0]))/PageSize*8)); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(entry[:])>>56&1 == 1
}

// TestPieces refuses memory that is put together of parts of a file in another order.
func TestPieces(t *testing.T) {
	for _, kind := range []string{"memfd", "file"} {
		g := newGuest(t, kind)
		g.do("remap", 30, 0)
		if m, err := Open(g.pid, g.addr, pages*PageSize, Read, g.calls); err == nil {
			t.Errorf("%s in pieces was taken: %v", kind, m)
		}
	}
}

// TestNotThere asks for memory that is not there, or not whole, or gone.
func TestNotThere(t *testing.T) {
	each(t, func(t *testing.T, g *guest, m Memory) {
		for _, c := range []struct {
			addr uint64
			size int64
		}{{4096, PageSize}, {g.addr, 1 << 40}, {g.addr - 1<<30, 1 << 30}} {
			// Beyond the block may be another mapping, which is another error.
			if m, err := Open(g.pid, c.addr, c.size, Read, g.calls); err == nil || c.size < 1<<40 && !errors.Is(err, ErrNotMapped) {
				t.Errorf("%#x+%d: %v, %v", c.addr, c.size, m, err)
			}
		}
		g.do("unmap", 700, 0)
		if m, err := Open(g.pid, g.addr, pages*PageSize, Read, g.calls); !errors.Is(err, ErrNotMapped) {
			t.Errorf("with a page missing: %v, %v", m, err)
		}
		if _, err := Open(1<<22+1, g.addr, PageSize, Read, g.calls); err == nil {
			t.Error("memory of a process that does not exist")
		}
		_, private := m.(*private)
		p := make([]byte, 10*PageSize)
		if err := m.Read(p, 695*PageSize); private && err == nil {
			t.Error("memory that was unmapped can be read")
		}
		unix.Kill(g.pid, unix.SIGKILL)
		if !private {
			return // what is in a file may outlive its process
		}
		// The memory goes when the last of the process's threads does.
		var errRead, errPages error
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && (errRead == nil || errPages == nil); {
			errRead = m.Read(p, 0)
			for _, errPages = range m.Populated(Range{End: pages * PageSize}) {
			}
		}
		if errRead == nil || errPages == nil {
			t.Errorf("the memory of a process that has ended: %v, %v", errRead, errPages)
		}
	})
}

// TestShortFile opens memory in a file that is too short, or becomes so.
func TestShortFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	name := f.Name()
	if err := f.Truncate(10*PageSize - 100); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(f, 0, 10*PageSize, nil); err == nil {
		t.Error("a file that ends too soon was taken")
	}
	if f, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(10 * PageSize); err != nil {
		t.Fatal(err)
	}
	m, err := OpenFile(f, PageSize, 9*PageSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.Truncate(name, 4*PageSize); err != nil {
		t.Fatal(err)
	}
	if err := m.Read(make([]byte, 9*PageSize), 0); err == nil {
		t.Error("what was cut off can be read")
	}
}

// TestByDescriptor reads memory of each kind through descriptors that were opened before, and in no other way.
func TestByDescriptor(t *testing.T) {
	each(t, func(t *testing.T, g *guest, m Memory) {
		process, ok := m.(ByProcess)
		if _, file := m.(*shared); ok == file {
			t.Errorf("by process: %v", ok)
		}
		if ok {
			if err := process.ByDescriptor(); err != nil {
				t.Fatal(err)
			}
		}
		g.calls.ReadVM = func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error) { return -1, unix.EPERM }
		scribble(g, 60)
		got := make([]byte, pages*PageSize)
		if err := m.Read(got, 0); err != nil {
			t.Fatal(err)
		}
		for i, seed := range g.seeds {
			if !bytes.Equal(got[i*PageSize:(i+1)*PageSize], pattern(i, seed)) {
				t.Fatalf("page %d is not of seed %d", i, seed)
			}
		}
		if c, ok := m.(Changed); ok {
			ranges := collect(t, c.Changed(Range{End: m.Size()}), Range{End: m.Size()})
			for i := range ranges {
				ranges[i].End = ranges[i].Start + PageSize
			}
			p := make([]byte, len(ranges)*PageSize)
			if err := c.ReadChanged(p, ranges); err != nil {
				t.Fatal(err)
			}
			for i, r := range ranges {
				k := int(r.Start / PageSize)
				if !bytes.Equal(p[i*PageSize:(i+1)*PageSize], pattern(k, g.seeds[k])) {
					t.Fatalf("changed page %d is not of seed %d", k, g.seeds[k])
				}
			}
		}
		if m.Read(got[:PageSize], m.Size()) == nil {
			t.Error("what is behind it can be read")
		}
		if ok {
			unix.Kill(g.pid, unix.SIGKILL)
			for deadline := time.Now().Add(5 * time.Second); m.Read(got[:PageSize], 0) == nil; {
				if time.Now().After(deadline) {
					t.Fatal("the memory of a process that has ended can be read")
				}
			}
		}
	})
}
