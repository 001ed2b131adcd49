// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

const page = guestmem.PageSize

// guestRAM is memory of this process, as guestmem sees that of a guest, with what its owner can do to it.
type guestRAM struct {
	guestmem.Memory
	bytes   []byte
	discard func(first, n int) // pages go back to be holes; nil: cannot be done
}

// mapRAM maps size bytes the way that kind says; "file" maps them from image at offset.
func mapRAM(t *testing.T, kind string, size int, image *os.File, offset int64) *guestRAM {
	t.Helper()
	fd, flags, at := -1, unix.MAP_PRIVATE, int64(0)
	switch kind {
	case "anonymous":
		flags |= unix.MAP_ANONYMOUS
	case "file":
		fd, at = int(image.Fd()), offset
	case "memfd":
		var err error
		if fd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		unix.Ftruncate(fd, int64(size))
		flags = unix.MAP_SHARED
	}
	b, err := unix.Mmap(fd, at, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	g := &guestRAM{bytes: b}
	switch kind {
	case "anonymous":
		g.discard = func(first, n int) { unix.Madvise(b[first*page:(first+n)*page], unix.MADV_DONTNEED) }
	case "memfd":
		g.discard = func(first, n int) {
			unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(first*page), int64(n*page))
		}
	}
	g.Memory, err = guestmem.Open(os.Getpid(), uint64(uintptr(unsafe.Pointer(&b[0]))), int64(size), guestmem.Read, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// work changes some pages: to something else, to zeros, to what they are, to holes.
func (g *guestRAM) work(r *rand.Rand, changes int) {
	pages := len(g.bytes) / page
	for range changes {
		first := r.IntN(pages)
		n := min(1+r.IntN(8), pages-first)
		p := g.bytes[first*page : (first+n)*page]
		switch r.IntN(5) {
		case 0, 1:
			for i := range n {
				p[i*page+r.IntN(page)] = byte(1 + r.IntN(255))
			}
		case 2:
			clear(p)
		case 3:
			copy(p, bytes.Clone(p)) // touched, and the same
		case 4:
			if g.discard != nil {
				g.discard(first, n)
			}
		}
	}
}

// saved is one image of guestRAMs with what is known of it.
type saved struct {
	layout *mappedram.Layout
	file   *os.File
	stored []mappedram.Bitmap
	sums   [][]uint64 // of the stored pages of each block
}

// save runs passes over memory, with work between them, and the last one when all is quiet.
func saveRAM(t *testing.T, ram []*guestRAM, base *saved, exact []bool, passes int, work func(), calls *sys.Calls) *saved {
	t.Helper()
	s := &saved{}
	var blocks []mappedram.Block
	e := &Save{Params: Params{Channels: 3, Calls: calls}, Live: passes > 1}
	for i, g := range ram {
		blocks = append(blocks, mappedram.Block{Name: fmt.Sprint("ram", i), Length: g.Size()})
		e.Memory = append(e.Memory, g.Memory)
		if base == nil {
			continue
		}
		b := &Base{Stored: base.stored[i]}
		if !exact[i] {
			b.Sums = func(first, n int) ([]uint64, error) { return base.sums[i][first : first+n], nil }
		}
		e.Base = append(e.Base, b)
	}
	var err error
	if s.layout, err = mappedram.NewLayout(0, vmstate.Config{MachineType: "pc", Capabilities: []string{"mapped-ram"}}, blocks); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if s.file, err = os.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.file.Close() })
	s.file.Truncate(s.layout.RAMEnd)
	scratch, err := os.Create(path + ".sums")
	if err != nil {
		t.Fatal(err)
	}
	e.Layout, e.Image, e.Sums = s.layout, directio.Reopen{File: s.file}, NewSums(scratch, s.layout.Blocks, calls)
	defer e.Sums.Close()
	for i := range passes {
		live := i < passes-1
		done := make(chan struct{})
		go func() {
			defer close(done)
			if live {
				work()
			}
		}()
		err := e.Run(context.Background())
		<-done
		if err != nil {
			t.Fatal(err)
		}
		if live {
			work()
		}
	}
	s.stored = e.Stored
	for i, b := range s.layout.Blocks {
		var sums []uint64
		e.Sums.Each(i, s.stored[i], b.Pages(), func(v []uint64) error { sums = append(sums, v...); return nil })
		s.sums = append(s.sums, sums)
	}
	return s
}

// page is what page n of a block is by the image and its base.
func (s *saved) page(t *testing.T, base *saved, block int, n int64) []byte {
	t.Helper()
	at := s.layout.Blocks[block].PagesOffset + n*page
	p := make([]byte, page)
	if _, err := s.file.ReadAt(p, at); err != nil {
		t.Fatal(err)
	}
	switch {
	case s.stored[block].Get(n):
		return p
	case base != nil:
		return base.page(t, nil, block, n)
	case !guestmem.IsZero(p):
		t.Errorf("block %d: page %d does not count and is not a hole, which a mapping of the image would see", block, n)
	}
	return make([]byte, page)
}

// check compares with the oracle: the memory itself.
func (s *saved) check(t *testing.T, ram []*guestRAM, base *saved, exact []bool) {
	t.Helper()
	for i, g := range ram {
		k := 0
		for n := range g.Size() / page {
			want := g.bytes[n*page : (n+1)*page]
			if !bytes.Equal(s.page(t, base, i, n), want) {
				t.Fatalf("block %d: page %d is not what it was", i, n)
			}
			if s.stored[i].Get(n) {
				if s.sums[i][k] != seal.PageSum(want) {
					t.Fatalf("block %d: the sum of page %d is wrong", i, n)
				}
				k++
				if base != nil && !exact[i] && bytes.Equal(base.page(t, nil, i, n), want) {
					t.Fatalf("block %d: page %d is stored although it is as in the base", i, n)
				}
			}
		}
	}
}

// TestPasses changes memory at random before, between and during passes of a save, with and without a base, and
// compares the image with the memory. It is deterministic but for the work during a pass.
func TestPasses(t *testing.T) {
	sizes := []int{3*stretch + 5*page, 70 * page, stretch}
	for _, kind := range []string{"memfd", "anonymous", "file"} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(kind, seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				var first []*guestRAM
				for _, size := range sizes {
					g := mapRAM(t, "memfd", size, nil, 0)
					g.work(r, 60)
					first = append(first, g)
				}
				base := saveRAM(t, first, nil, nil, 1, nil, nil)
				base.check(t, first, nil, nil)

				ram, exact := first, make([]bool, len(first))
				if kind != "memfd" {
					ram = nil
					for i, size := range sizes {
						g := mapRAM(t, kind, size, base.file, base.layout.Blocks[i].PagesOffset)
						if exact[i] = kind == "file"; !exact[i] {
							copy(g.bytes, first[i].bytes)
						}
						ram = append(ram, g)
					}
				}
				work := func() {
					for _, g := range ram {
						g.work(r, 20)
					}
				}
				for _, passes := range []int{1, 2, 4} {
					work()
					whole := saveRAM(t, ram, nil, nil, passes, work, nil)
					whole.check(t, ram, nil, nil)
					diff := saveRAM(t, ram, base, exact, passes, work, nil)
					diff.check(t, ram, base, exact)
				}
			})
		}
	}
}

// TestLiveWritesWhatItSummed has the guest write to a page after it was summed and before it is on its way, and take
// that back before the last pass, which must see that the file has something else.
func TestLiveWritesWhatItSummed(t *testing.T) {
	g := mapRAM(t, "memfd", 4*page, nil, 0)
	for i := range g.bytes {
		g.bytes[i] = byte(i)
	}
	c := sys.Kernel()
	pwrite := c.Pwrite
	c.Pwrite = func(fd int, p []byte, off int64) (int, error) {
		g.bytes[7] ^= 0xff
		defer func() { g.bytes[7] ^= 0xff }()
		return pwrite(fd, p, off)
	}
	ram := []*guestRAM{g}
	saveRAM(t, ram, nil, nil, 2, func() {}, c).check(t, ram, nil, nil)
}
