// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"golang.org/x/sys/unix"
)

// temp is a file of n bytes on the disk that tests run on.
func temp(t *testing.T, n int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "file"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func buffer(t *testing.T, n int) Buffer {
	t.Helper()
	b, err := NewBuffer(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Free)
	return b
}

// ways are File over one file, buffered and, where the disk takes it, direct.
func ways(t *testing.T, f *os.File, calls *sys.Calls) []*File {
	t.Helper()
	var all []*File
	for _, flags := range []int{os.O_RDWR, os.O_RDWR | unix.O_DIRECT} {
		d, err := Open(Reopen{File: f}, flags, calls)
		if errors.Is(err, ErrNoDirect) {
			t.Log("no O_DIRECT here")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if d.Direct() != (flags&unix.O_DIRECT != 0) {
			t.Fatalf("opened with %#x it is direct: %v", flags, d.Direct())
		}
		t.Cleanup(func() { d.Close() })
		all = append(all, d)
	}
	return all
}

// TestWhole writes and reads through calls that are cut short and interrupted at random: all of it gets there.
func TestWhole(t *testing.T) {
	f := temp(t, 1<<20)
	r := rand.New(rand.NewPCG(1, 2))
	cut := func(call func(int, []byte, int64) (int, error)) func(int, []byte, int64) (int, error) {
		return func(fd int, p []byte, off int64) (int, error) {
			switch r.IntN(4) {
			case 0:
				return -1, unix.EINTR
			case 1:
				return call(fd, p, off)
			}
			// The kernel may stop within a block when it cannot go on.
			n, err := call(fd, p, off)
			return min(n, PageSize+r.IntN(len(p))), err
		}
	}
	c := sys.Kernel()
	c.Pwrite, c.Pread = cut(c.Pwrite), cut(c.Pread)
	for _, d := range ways(t, f, c) {
		want, got := buffer(t, 64*PageSize), buffer(t, 64*PageSize)
		for round := range 20 {
			for i := range want {
				want[i] = byte(r.Uint32())
			}
			off := int64(round) * PageSize
			if n, err := d.WriteAt(want, off); err != nil || n != len(want) {
				t.Fatalf("wrote %d: %v", n, err)
			}
			clear(got)
			if n, err := d.ReadAt(got, off); err != nil || n != len(got) {
				t.Fatalf("read %d: %v", n, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("direct %v: something else came back", d.Direct())
			}
		}
	}
}

// TestFailures has each call fail, and one that does nothing at all.
func TestFailures(t *testing.T) {
	f := temp(t, 16*PageSize)
	b := buffer(t, 4*PageSize)
	for _, d := range ways(t, f, nil) {
		c := sys.Kernel()
		d.Calls = c
		calls := 0
		c.Pwrite = func(int, []byte, int64) (int, error) {
			if calls++; calls == 1 {
				return 2 * PageSize, nil
			}
			return -1, unix.ENOSPC
		}
		n, err := d.WriteAt(b, PageSize)
		if !errors.Is(err, unix.ENOSPC) || n != 2*PageSize || !strings.Contains(err.Error(), "write 8192 bytes at 12288 of "+f.Name()) {
			t.Errorf("wrote %d: %v", n, err)
		}
		c.Pwrite = func(int, []byte, int64) (int, error) { return 0, nil }
		if n, err := d.WriteAt(b, 0); !errors.Is(err, io.ErrShortWrite) || n != 0 {
			t.Errorf("wrote %d: %v", n, err)
		}
		c.Pwrite = func(int, []byte, int64) (int, error) { return 1 << 30, nil }
		if _, err := d.WriteAt(b, 0); err == nil {
			t.Error("more was written than there was")
		}
		c.Pread = func(int, []byte, int64) (int, error) { return -1, unix.EIO }
		c.Fsync = func(int) error { return unix.EIO }
		c.Ftruncate = func(int, int64) error { return unix.EFBIG }
		if _, err := d.ReadAt(b, 0); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
		if err := d.Sync(); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
		if err := d.Truncate(1); !errors.Is(err, unix.EFBIG) {
			t.Error(err)
		}
		d.Calls = nil
		if n, err := d.ReadAt(b, 14*PageSize); err != io.EOF || n != 2*PageSize {
			t.Errorf("at the end of the file it read %d: %v", n, err)
		}
		if d.Direct() {
			if _, err := d.WriteAt(b[1:PageSize+1], 0); err != nil && !strings.Contains(err.Error(), "--direct-io=off") {
				t.Errorf("an unaligned write says %v", err)
			}
		}
	}
}

// TestReopen checks that each description is a new one: the position and the flags of one are not another's.
func TestReopen(t *testing.T) {
	f := temp(t, 3*PageSize)
	a, err := Reopen{File: f}.Open(os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := f.Seek(77, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if at, err := a.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		t.Errorf("the position is %d, %v", at, err)
	}
	if _, err := a.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a description for reading takes writes")
	}
	os.Remove(f.Name())
	b, err := Reopen{File: f}.Open(os.O_RDWR)
	if err != nil {
		t.Fatalf("a file without a name: %v", err)
	}
	b.Close()
	if _, err := Path(f.Name()).Open(os.O_RDONLY); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that is gone: %v", err)
	}
}

// TestChoose decides for a disk, for memory, and for files that cannot.
func TestChoose(t *testing.T) {
	f := temp(t, 1<<20)
	direct := len(ways(t, f, nil)) == 2
	for _, m := range []Mode{Auto, Off} {
		d, err := Chooser{Mode: m}.Choose(Reopen{File: f}, os.O_WRONLY)
		if err != nil || d.Direct != (m == Auto && direct) || d.Why == "" {
			t.Errorf("%v on a disk: %+v, %v", m, d, err)
		}
		if want := map[bool]string{true: "direct", false: "buffered"}[d.Direct]; d.String() != want {
			t.Errorf("%+v is called %s", d, d)
		}
	}
	fd, err := unix.MemfdCreate("memory", 0)
	if err != nil {
		t.Fatal(err)
	}
	memory := os.NewFile(uintptr(fd), "memory")
	defer memory.Close()
	if d, err := (Chooser{}).Choose(Reopen{File: memory}, os.O_RDWR); err != nil || d.Direct {
		t.Errorf("memory: %+v, %v", d, err)
	}
	c := sys.Kernel()
	c.Open = func(path string, flags int, mode uint32) (int, error) {
		if flags&unix.O_DIRECT != 0 {
			return -1, unix.EINVAL
		}
		return unix.Open(path, flags, mode)
	}
	if d, err := (Chooser{}).Choose(Reopen{f, c}, os.O_RDWR); err != nil || d.Direct || !strings.Contains(d.Why, "O_DIRECT") {
		t.Errorf("a file system without O_DIRECT: %+v, %v", d, err)
	}
	if d, err := (Chooser{Mode: On}).Choose(Reopen{f, c}, os.O_RDWR); err == nil || !strings.Contains(err.Error(), "--direct-io=off") {
		t.Errorf("a file system without O_DIRECT, insisted on: %+v, %v", d, err)
	}
}

func TestAlignment(t *testing.T) {
	for _, c := range []struct {
		Alignment
		fits bool
	}{{Alignment{512, 512}, true}, {Alignment{4096, 4096}, true}, {Alignment{512, 16384}, false}, {Alignment{8192, 512}, false}} {
		if c.Fits() != c.fits {
			t.Errorf("%+v fits: %v", c.Alignment, c.Fits())
		}
	}
}

// TestPunch frees what was written; the file keeps its length.
func TestPunch(t *testing.T) {
	f := temp(t, 16*PageSize)
	d := ways(t, f, nil)[0]
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 16*PageSize), 0); err != nil {
		t.Fatal(err)
	}
	err := d.Punch(4*PageSize, 8*PageSize)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("no holes here")
	}
	got := make([]byte, 16*PageSize)
	if _, e := d.ReadAt(got, 0); err != nil || e != nil {
		t.Fatal(err, e)
	}
	for i, b := range got {
		if hole := i >= 4*PageSize && i < 12*PageSize; hole != (b == 0) {
			t.Fatalf("byte %d is %d", i, b)
		}
	}
}

// TestBuffer: a large one begins where a huge page can, and nothing of what was mapped for that is left behind.
func TestBuffer(t *testing.T) {
	mapped := func() (kib int) {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Skip(err)
		}
		_, rest, _ := strings.Cut(string(b), "VmSize:")
		fmt.Sscan(rest, &kib)
		return kib
	}
	Buffer(nil).Free()
	before := mapped()
	for _, size := range []int{1, PageSize, PageSize + 1, hugePage, hugePage + 1, 5 << 20} {
		var all []Buffer
		for range 40 {
			b, err := NewBuffer(size)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) < size || len(b) >= size+PageSize || len(b)%PageSize != 0 {
				t.Errorf("%d bytes: has %d", size, len(b))
			}
			if at := uintptr(unsafe.Pointer(&b[0])); at%PageSize != 0 || size >= hugePage && at%hugePage != 0 {
				t.Errorf("%d bytes: at %#x", size, at)
			}
			b[0], b[len(b)-1] = 1, 1
			all = append(all, b)
		}
		for _, b := range all {
			b.Free()
		}
	}
	if more := mapped() - before; more > 100*1024 { // Go's own heap is in it
		t.Errorf("%d KiB are mapped after all is freed", more)
	}
}
