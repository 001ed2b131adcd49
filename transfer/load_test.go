// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/internal/sys"
)

// blank is memory to load into, a memfd that may hold something from before, and the memfd.
func blank(t *testing.T, size int64, rubbish bool) (guestmem.Memory, *os.File) {
	t.Helper()
	fd, err := unix.MemfdCreate("loaded", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "loaded")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if rubbish {
		r := rand.New(rand.NewPCG(9, uint64(size)))
		for range 20 {
			at := r.Int64N(size / page)
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, int(min(9*page, size-at*page))), at*page); err != nil {
				t.Fatal(err)
			}
		}
	}
	open, err := directio.Reopen{File: f}.Open(os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	m, err := guestmem.OpenFile(open, 0, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, f
}

// loadOf is a Load of all that s has, and the files that it loads into.
func loadOf(t *testing.T, s *saved, rubbish bool) (*Load, []*os.File) {
	t.Helper()
	l := &Load{Image: directio.Reopen{File: s.file}}
	var files []*os.File
	for i, b := range s.layout.Blocks {
		m, f := blank(t, b.Length, rubbish)
		l.Blocks = append(l.Blocks, LoadBlock{Block: b, Index: i, Stored: s.stored[i], Memory: m, Clear: rubbish})
		files = append(files, f)
	}
	return l, files
}

// someRAM is memory of some blocks with random data and holes, and its image.
func someRAM(t *testing.T, seed uint64) ([]*guestRAM, *saved) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	var ram []*guestRAM
	for _, size := range []int{2*stretch + 3*page, page, 130 * page, 5 * stretch} {
		g := mapRAM(t, "memfd", size, nil, 0)
		g.work(r, 80)
		ram = append(ram, g)
	}
	return ram, saveRAM(t, ram, nil, nil, 1, nil, nil)
}

// TestRoundTrip saves memory and loads it again, over any number of channels, direct and not, into memory that is
// new and into memory that is not. Holes come back as holes.
func TestRoundTrip(t *testing.T) {
	for n, params := range []Params{{}, {Channels: 1}, {Channels: 7}, {Channels: 2, Direct: true}, {Channels: 16, Direct: true, Cached: true}} {
		for _, rubbish := range []bool{false, true} {
			t.Run(fmt.Sprintf("%+v, rubbish %v", params, rubbish), func(t *testing.T) {
				ram, s := someRAM(t, uint64(n))
				l, files := loadOf(t, s, rubbish)
				if params.Direct {
					if io, err := (directio.Chooser{}).Choose(l.Image, os.O_RDONLY); err != nil || !io.Direct {
						t.Skipf("no direct I/O here: %v %v", io.Why, err)
					}
				}
				l.Params = params
				if err := l.Run(context.Background()); err != nil {
					t.Fatal(err)
				}
				var stored int64
				for i, g := range ram {
					got := make([]byte, g.Size())
					if _, err := files[i].ReadAt(got, 0); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, g.bytes) {
						t.Errorf("block %d is not what it was", i)
					}
					stored += s.stored[i].Count()
					var st unix.Stat_t
					if err := unix.Fstat(int(files[i].Fd()), &st); err != nil {
						t.Fatal(err)
					}
					if pages := st.Blocks * 512 / page; !rubbish && pages != s.stored[i].Count() {
						t.Errorf("block %d takes %d pages, %d are stored", i, pages, s.stored[i].Count())
					}
				}
				if p := &l.Progress; p.Stored.Load() != stored || p.Bytes.Load() != stored*page || p.Total.Load() != stored*page || p.Passed.Load() != stored*page {
					t.Errorf("counted %d pages, %d bytes of %d, for %d pages", p.Stored.Load(), p.Bytes.Load(), p.Total.Load(), stored)
				}
			})
		}
	}
}

// TestLoadChecks has every page be seen once, by its place, before it is in memory; what is refused ends the load.
func TestLoadChecks(t *testing.T) {
	ram, s := someRAM(t, 5)
	l, _ := loadOf(t, s, false)
	l.Params.Channels = 1 // Check is not for several goroutines here
	seen := map[[2]int64]bool{}
	l.Sink = func(block int, first int64, pages []byte) error {
		for i := range int64(len(pages) / page) {
			if k := [2]int64{int64(block), first + i}; seen[k] {
				t.Errorf("page %v was seen twice", k)
			} else {
				seen[k] = true
			}
			if !bytes.Equal(pages[i*page:(i+1)*page], ram[block].bytes[(first+i)*page:(first+i+1)*page]) {
				t.Fatalf("page %d of block %d is shown as another", first+i, block)
			}
		}
		return nil
	}
	if err := l.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range ram {
		for n := range s.layout.Blocks[i].Pages() {
			if seen[[2]int64{int64(i), n}] != s.stored[i].Get(n) {
				t.Fatalf("page %d of block %d: seen %v", n, i, !s.stored[i].Get(n))
			}
		}
	}
	bad := errors.New("bad page")
	l, files := loadOf(t, s, false)
	l.Sink = func(int, int64, []byte) error { return bad }
	if err := l.Run(context.Background()); !errors.Is(err, bad) {
		t.Errorf("a refused page: %v", err)
	}
	for i, f := range files {
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st); st.Blocks != 0 {
			t.Errorf("block %d got pages that were refused", i)
		}
	}
}

// TestLoadFails: an image that ends too soon, a disk that fails, memory of another size, an end from outside.
func TestLoadFails(t *testing.T) {
	_, s := someRAM(t, 6)
	run := func(change func(*Load)) error {
		l, _ := loadOf(t, s, false)
		change(l)
		return l.Run(context.Background())
	}
	if err := run(func(l *Load) { l.Blocks[0].Length += page }); err == nil || !strings.Contains(err.Error(), "in memory") {
		t.Errorf("memory of another size: %v", err)
	}
	if err := run(func(l *Load) { l.Image = directio.Path("/nonexistent") }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no image: %v", err)
	}
	broken := sys.Kernel()
	broken.Pread = func(int, []byte, int64) (int, error) { return -1, unix.EIO }
	if err := run(func(l *Load) { l.Params.Calls = broken }); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "block ram") {
		t.Errorf("a disk that fails: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("no more")
	l, _ := loadOf(t, s, false)
	l.Sink = func(int, int64, []byte) error { cancel(why); return nil }
	if err := l.Run(ctx); !errors.Is(err, why) {
		t.Errorf("ended from outside: %v", err)
	}
	if err := s.file.Truncate(s.layout.Blocks[3].PagesOffset + page); err != nil {
		t.Fatal(err)
	}
	if err := run(func(*Load) {}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an image that was cut: %v", err)
	}
}

// TestSaveFails: a full disk, no disk, an end from outside. It ends soon, and says which block it was.
func TestSaveFails(t *testing.T) {
	ram, s := someRAM(t, 7)
	c := sys.Kernel()
	save := func(ctx context.Context) error {
		e := &Save{Layout: s.layout, Image: directio.Reopen{File: s.file}, Params: Params{MaxBandwidth: 1 << 40, Calls: c}}
		for _, g := range ram {
			e.Memory = append(e.Memory, g.Memory)
		}
		return e.Run(ctx)
	}
	if err := save(context.Background()); err != nil {
		t.Fatal(err)
	}
	pwrite := c.Pwrite
	c.Pwrite = func(int, []byte, int64) (int, error) { return -1, unix.ENOSPC }
	if err := save(context.Background()); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "block ram") {
		t.Errorf("a full disk: %v", err)
	}
	why := errors.New("no more")
	ctx, cancel := context.WithCancelCause(context.Background())
	c.Pwrite = func(fd int, p []byte, off int64) (int, error) { cancel(why); return pwrite(fd, p, off) }
	if err := save(ctx); !errors.Is(err, why) {
		t.Errorf("ended from outside: %v", err)
	}
	e := &Save{Layout: s.layout, Image: directio.Reopen{File: s.file}}
	if err := e.Run(context.Background()); err == nil {
		t.Error("no memory for the blocks, and no error")
	}
}

// TestInterruptedWait ends a save that waits for its turn under a narrow bandwidth.
func TestInterruptedWait(t *testing.T) {
	ram, s := someRAM(t, 8)
	e := &Save{Layout: s.layout, Image: directio.Reopen{File: s.file}, Params: Params{MaxBandwidth: 100 << 10}}
	for _, g := range ram {
		e.Memory = append(e.Memory, g.Memory)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := e.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it says %v", err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestParams(t *testing.T) {
	for _, p := range []Params{{}, {Channels: 1}, {Channels: MaxChannels, MaxBandwidth: 1}} {
		if err := p.Validate(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, p := range []Params{{Channels: -1}, {Channels: MaxChannels + 1}, {MaxBandwidth: -1}} {
		if p.Validate() == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}
