// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// reserving is a save, not begun, of a memfd: data, zeros that exist, and a hole of whole stretches, then data again.
func reserving(t *testing.T) (*Save, *directio.File, *guestRAM) {
	t.Helper()
	const size = 10 * stretch
	g := mapRAM(t, "memfd", size, nil, 0)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(g.bytes[:3*stretch])
	clear(g.bytes[3*stretch/2 : 2*stretch])
	clear(g.bytes[3*stretch : 6*stretch])
	g.bytes[3*stretch], g.bytes[6*stretch-1] = 1, 1
	r.Read(g.bytes[8*stretch:])
	layout, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "none", Capabilities: []string{"mapped-ram"}}, []mappedram.Block{{Name: "ram", Length: size}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(t.TempDir() + "/image")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(layout.RAMEnd); err != nil {
		t.Fatal(err)
	}
	d, err := directio.NewFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	io, err := (directio.Chooser{}).Choose(directio.Path(f.Name()), os.O_WRONLY)
	if err != nil || !io.Direct || !d.WantsRoom() {
		t.Skipf("the file system of the temporary directory is not one where room is reserved (%v, %v)", io.Why, err)
	}
	return &Save{
		Layout: layout, Memory: []guestmem.Memory{g}, Image: directio.Path(f.Name()),
		Params: Params{Direct: true, BufferedBelow: 64 << 10},
	}, d, g
}

func allocated(t *testing.T, f *directio.File) int64 {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// finish runs the save and checks that the file has all pages, and no more.
func finish(t *testing.T, s *Save, f *directio.File, g *guestRAM) {
	t.Helper()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(f); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(g.bytes))
	if _, err := f.ReadAt(got, s.Layout.Blocks[0].PagesOffset); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, g.bytes) {
		t.Error("the file does not have what the memory has")
	}
	const extents = 64 << 10 // what ext4 itself needs for a file of many extents
	if want, has := s.Stored[0].Count()*page, allocated(t, f); has < want || has > want+extents {
		t.Errorf("the file takes %d bytes for %d bytes of pages", has, want)
	}
}

// TestReserve has room for what exists before a page is written, and afterwards only for what was.
func TestReserve(t *testing.T) {
	s, f, g := reserving(t)
	if err := s.Reserve(f); err != nil {
		t.Fatal(err)
	}
	if n := allocated(t, f); n < 8*stretch || n > 8*stretch+64<<10 {
		t.Errorf("%d bytes are reserved for %d", n, 8*stretch)
	}
	finish(t, s, f, g)
}

// TestReserveWithoutRoom has the file system be full after the first range: nothing of it stays, and the save goes on without.
func TestReserveWithoutRoom(t *testing.T) {
	s, f, g := reserving(t)
	n := 0
	c := sys.Kernel()
	real := c.Fallocate
	c.Fallocate = func(fd int, mode uint32, off, length int64) error {
		if mode&unix.FALLOC_FL_PUNCH_HOLE == 0 {
			if n++; n == 2 {
				return unix.ENOSPC
			}
		}
		return real(fd, mode, off, length)
	}
	f.Calls = c
	err := s.Reserve(f)
	f.Calls = nil
	if err != nil || n != 2 {
		t.Fatalf("%v after %d ranges", err, n)
	}
	if n := allocated(t, f); n > 0 {
		t.Errorf("%d bytes stay reserved", n)
	}
	finish(t, s, f, g)
}

// TestReserveChanged has the guest do something else between Reserve and Run.
func TestReserveChanged(t *testing.T) {
	s, f, g := reserving(t)
	if err := s.Reserve(f); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	g.discard(0, 1024)
	g.work(r, 200)
	finish(t, s, f, g)
}

// TestReserveLeavesRoom: room is reserved only where enough of it is left for others, the VM's own disk say.
func TestReserveLeavesRoom(t *testing.T) {
	before := freeSpace
	defer func() { freeSpace = before }()
	s, f, g := reserving(t)
	const exists = 8 * stretch // two stretches of ten are a hole
	for _, c := range []struct {
		free     int64
		reserved bool
	}{{exists, false}, {exists + minFree - 1, false}, {exists + minFree, true}, {8 << 30, true}} {
		freeSpace = func(*directio.File) (int64, error) { return c.free, nil }
		if err := s.Reserve(f); err != nil {
			t.Fatal(err)
		}
		if got := allocated(t, f) > 0; got != c.reserved {
			t.Errorf("with %d bytes free: reserved %v", c.free, got)
		}
		if err := s.Release(f); err != nil {
			t.Fatal(err)
		}
	}
	finish(t, s, f, g)
}
