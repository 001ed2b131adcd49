// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestHugePagesWritten (16.7) fills memory in huge pages piece by piece, as an eager restore does.
func TestHugePagesWritten(t *testing.T) {
	const size, setting = 8 << 20, "/proc/sys/vm/nr_hugepages"
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		t.Skipf("there is no memory in huge pages here: %v", err)
	}
	f := os.NewFile(uintptr(fd), "huge")
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(setting)
	if err != nil {
		t.Skip(err)
	}
	if strings.TrimSpace(string(was)) == "0" {
		if err := os.WriteFile(setting, []byte("8"), 0o600); err != nil {
			t.Skipf("there are no huge pages here, and none can be had: %v", err)
		}
		t.Cleanup(func() { os.WriteFile(setting, was, 0o600) })
	}
	if err := unix.Fallocate(fd, 0, 0, size); err != nil {
		t.Skipf("no huge pages are free: %v", err)
	}
	m, err := OpenFile(f, 0, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want := make([]byte, size)
	for i, piece := range []struct{ at, n int64 }{{0, 4096}, {4096, 1 << 20}, {2<<20 - 8192, 3 << 20}, {size - 4096, 4096}, {5 << 20, 3<<20 - 4096}} {
		p := bytes.Repeat([]byte{byte(i + 1)}, int(piece.n))
		if err := m.Write(p, piece.at); err != nil {
			t.Fatalf("%d bytes at %d: %v", piece.n, piece.at, err)
		}
		copy(want[piece.at:], p)
	}
	got := make([]byte, size)
	if err := m.Read(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was written is not there: %v", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil || bytes.Contains(maps, []byte("memfd:huge")) {
		t.Errorf("a mapping is left: %v", err)
	}
}

// TestDeviceDiffers (16.7) looks for the file behind a mapping by descriptors, as without root, where the memory map has another
// device than stat(2), as on btrfs.
func TestDeviceDiffers(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	m := mapping{start: 1 << 12, end: 2 << 12, perms: "rw-s", device: st.Dev + 1, inode: st.Ino, path: f.Name()}
	got, err := openMapped(os.Getpid(), m, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	var gst unix.Stat_t
	if unix.Fstat(int(got.Fd()), &gst) != nil || gst.Ino != st.Ino || gst.Dev != st.Dev {
		t.Errorf("it is another file: %+v", gst)
	}
	m.path += "-other"
	if got, err := openMapped(os.Getpid(), m, os.O_RDWR); err == nil {
		got.Close()
		t.Error("another file of that number was opened")
	}
}

// TestReadOnlyShared (15.6) refuses to write into memory that its process maps read-only.
func TestReadOnlyShared(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	for _, prot := range []int{unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE} {
		mem, err := unix.Mmap(int(f.Fd()), 0, 1<<20, prot, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Open(os.Getpid(), address(mem), 1<<20, ReadWrite, nil)
		if readOnly := prot == unix.PROT_READ; (err != nil) != readOnly {
			t.Errorf("protection %d: %v", prot, err)
		}
		if err == nil {
			m.Close()
		} else if !strings.Contains(fmt.Sprint(err), f.Name()) {
			t.Errorf("%v does not name the file", err)
		}
		unix.Munmap(mem)
	}
}

func address(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&mem[0]))) }
