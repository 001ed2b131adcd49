// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// BenchmarkSave saves a shared memory of which five eighths hold data to the file system of the working directory (or
// RAMJET_BENCH_DIR). Its GB/s are those of the data. "plain" is the same bytes by a loop that does nothing else.
func BenchmarkSave(b *testing.B) {
	const size, used = 1 << 30, 5 << 27
	dir := os.Getenv("RAMJET_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "guest")
	f.Truncate(size)
	fill(b, f, used)
	b.Run("plain", func(b *testing.B) { benchPlain(b, dir, used) })
	for _, sums := range []bool{false, true} {
		for _, n := range []int{1, 2, 3, 4, 6, 8} {
			b.Run(fmt.Sprintf("sums=%v/channels=%d", sums, n), func(b *testing.B) {
				b.SetBytes(used)
				for b.Loop() {
					benchSave(b, dir, f, size, n, sums)
				}
			})
		}
	}
}

func fill(b *testing.B, f *os.File, n int) {
	r := rand.NewChaCha8([32]byte{1})
	p := make([]byte, 1<<20)
	for at := 0; at < n; at += len(p) {
		r.Read(p)
		if _, err := f.WriteAt(p, int64(at)); err != nil {
			b.Fatal(err)
		}
	}
}

func unnamed(b *testing.B, dir string) *os.File {
	f, err := openTemp(dir)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

func openTemp(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	return os.NewFile(uintptr(fd), dir), err
}

func benchPlain(b *testing.B, dir string, n int64) {
	buf, err := directio.NewBuffer(stretch)
	if err != nil {
		b.Fatal(err)
	}
	rand.NewChaCha8([32]byte{2}).Read(buf)
	b.SetBytes(n)
	for b.Loop() {
		f := unnamed(b, dir)
		d, err := directio.Open(directio.Reopen{File: f}, os.O_WRONLY|unix.O_DIRECT, nil)
		if err != nil {
			b.Fatal(err)
		}
		for at := int64(0); at < n; at += stretch {
			if _, err := d.WriteAt(buf, at); err != nil {
				b.Fatal(err)
			}
		}
		d.Close()
		f.Close()
	}
}

func benchSave(b *testing.B, dir string, mem *os.File, size int64, channels int, sums bool) {
	dup, err := directio.Reopen{File: mem}.Open(os.O_RDONLY)
	if err != nil {
		b.Fatal(err)
	}
	m, err := guestmem.OpenFile(dup, 0, size, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	layout, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "pc", Capabilities: []string{"mapped-ram"}}, []mappedram.Block{{Name: "pc.ram", Length: size}})
	if err != nil {
		b.Fatal(err)
	}
	f := unnamed(b, dir)
	defer f.Close()
	f.Truncate(layout.RAMEnd)
	s := &Save{Layout: layout, Memory: []guestmem.Memory{m}, Image: directio.Reopen{File: f}, Params: Params{Channels: channels, Direct: true}}
	if sums {
		s.Sums = NewSums(unnamed(b, dir), layout.Blocks, nil)
		defer s.Sums.Close()
	}
	if err := s.Run(context.Background()); err != nil {
		b.Fatal(err)
	}
}
