// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"bytes"
	"errors"
	"iter"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestCutShort has every call move at most a page and a half, and every other one be interrupted: all is read and written.
func TestCutShort(t *testing.T) {
	n := 0
	interrupted := func() bool { n++; return n%2 == 1 }
	short := func(call func(int, []byte, int64) (int, error)) func(int, []byte, int64) (int, error) {
		return func(fd int, p []byte, off int64) (int, error) {
			if interrupted() {
				return -1, unix.EINTR
			}
			return call(fd, p[:min(len(p), 6000)], off)
		}
	}
	shortVM := func(call vmCall) vmCall {
		return func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) {
			if interrupted() {
				return -1, unix.EINTR
			}
			local[0].SetLen(min(int(local[0].Len), 6000))
			return call(pid, local, remote, flags)
		}
	}
	each(t, func(t *testing.T, g *guest, m Memory) {
		c := g.calls
		c.Pread, c.Pwrite, c.ReadVM, c.WriteVM = short(c.Pread), short(c.Pwrite), shortVM(c.ReadVM), shortVM(c.WriteVM)
		seek, scan := c.Seek, c.Scan
		c.Seek = func(fd int, off int64, whence int) (int64, error) {
			if interrupted() {
				return -1, unix.EINTR
			}
			return seek(fd, off, whence)
		}
		c.Scan = func(fd int, arg unsafe.Pointer) (int, error) {
			if interrupted() {
				return -1, unix.EINTR
			}
			return scan(fd, arg)
		}
		scribble(g, 200)
		got := make([]byte, pages*PageSize)
		if err := m.Read(got, 0); err != nil {
			t.Fatal(err)
		}
		for i, s := range g.seeds {
			if !bytes.Equal(got[i*PageSize:(i+1)*PageSize], pattern(i, s)) {
				t.Fatalf("page %d is wrong", i)
			}
		}
		for _, err := range m.Populated(Range{End: pages * PageSize}) {
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestRefused has every call fail with EIO: the error says what was not possible, and no page is taken for zero.
func TestRefused(t *testing.T) {
	each(t, func(t *testing.T, g *guest, m Memory) {
		c := g.calls
		c.Pread = func(int, []byte, int64) (int, error) { return -1, unix.EIO }
		c.Pwrite = c.Pread
		c.ReadVM = func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error) { return -1, unix.EIO }
		c.WriteVM = c.ReadVM
		c.Seek = func(int, int64, int) (int64, error) { return -1, unix.EIO }
		c.Scan = func(int, unsafe.Pointer) (int, error) { return -1, unix.EIO }
		scribble(g, 10)
		p := make([]byte, 5*PageSize)
		if err := m.Read(p, PageSize); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "cannot") {
			t.Errorf("read: %v", err)
		}
		if err := m.Write(p, PageSize); err == nil || !strings.Contains(err.Error(), "cannot") {
			t.Errorf("write: %v", err)
		}
		said := false
		for r, err := range m.Populated(Range{End: pages * PageSize}) {
			if said = err != nil; !said {
				t.Errorf("%v is populated", r)
			}
		}
		if !said {
			t.Error("nobody says that it is not known what is populated")
		}
	})
}

// TestEnds has the file end, and the process, where something should be.
func TestEnds(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(8 * PageSize); err != nil {
		t.Fatal(err)
	}
	m, err := OpenFile(f, 0, 8*PageSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := f.Truncate(PageSize + 100); err != nil {
		t.Fatal(err)
	}
	if err := m.Read(make([]byte, 4*PageSize), 0); err == nil {
		t.Error("bytes were read that are not there")
	}
	if err := m.Read(bytes.Repeat([]byte{1}, PageSize), PageSize); err != nil {
		t.Errorf("the file's last page: %v", err)
	}
	g := newGuest(t, "anonymous")
	fail := func(errno unix.Errno) {
		g.calls.ReadVM = func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error) { return -1, errno }
	}
	fail(unix.ESRCH)
	if _, err := Open(g.pid, g.addr, pages*PageSize, Read, g.calls); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("a process that has ended: %v", err)
	}
	fail(unix.EPERM)
	if _, err := Open(g.pid, g.addr, pages*PageSize, Read, g.calls); err == nil || !strings.Contains(err.Error(), "no permission") {
		t.Errorf("without permission: %v", err)
	}
}

// TestOtherDescriptor gets at a mapping's file without /proc/PID/map_files, which not everybody may use.
func TestOtherDescriptor(t *testing.T) {
	g := newGuest(t, "memfd")
	g.do("write", 3, 7)
	s, err := findSpan(g.pid, g.addr, pages*PageSize)
	if err != nil {
		t.Fatal(err)
	}
	m := s.mapping
	m.start++ // no such name
	f, err := openMapped(g.pid, m, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, PageSize)
	if _, err := f.ReadAt(p, int64(s.offset+(g.addr-s.start))+3*PageSize); err != nil || !bytes.Equal(p, pattern(3, 7)) {
		t.Errorf("it is another file, %v", err)
	}
	m.inode++
	if _, err := openMapped(g.pid, m, os.O_RDONLY); err == nil || !strings.Contains(err.Error(), "cannot open the file behind") {
		t.Errorf("a file that nobody holds: %v", err)
	}
}

// TestScanOfDeadProcess (issue 15, point 14) gives the answer of a kernel on which a scan of a process that has ended finds
// nothing and no error: its memory is neither empty nor that of the file beneath.
func TestScanOfDeadProcess(t *testing.T) {
	each(t, func(t *testing.T, g *guest, m Memory) {
		if pagemapOf(m) == nil {
			return // what is in a file may outlive its process
		}
		scribble(g, 20)
		if err := unix.Kill(g.pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		g.calls.Scan = func(_ int, arg unsafe.Pointer) (int, error) {
			a := (*pmScanArg)(arg)
			a.walkEnd = a.end
			return 0, nil
		}
		var entry [8]byte
		at := int64(g.addr / PageSize * 8)
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if n, err := pagemapOf(m).f.ReadAt(entry[:], at); n == 0 {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("the process does not end: %d bytes, %v", n, err)
			}
		}
		whole := Range{End: m.Size()}
		questions := map[string]iter.Seq2[Range, error]{"Populated": m.Populated(whole)}
		if c, ok := m.(Changed); ok {
			questions["Changed"], questions["Touched"] = c.Changed(whole), c.Touched(whole)
		}
		for name, ranges := range questions {
			var err error
			for _, err = range ranges {
			}
			if !errors.Is(err, errEnded) {
				t.Errorf("%s of a process that has ended: %v", name, err)
			}
		}
		if err := m.Read(make([]byte, 100*PageSize), 0); err == nil {
			t.Error("the memory of a process that has ended can be read")
		}
	})
}

// TestScanMeetsTheEnd has the process end between a scan and the next: what the first found is not all.
func TestScanMeetsTheEnd(t *testing.T) {
	g := newGuest(t, "anonymous")
	m := g.open(Read)
	if pagemapOf(m).old.Load() {
		t.Skip("this kernel has no PAGEMAP_SCAN")
	}
	c := g.calls
	scan := c.Scan
	c.Scan = func(fd int, arg unsafe.Pointer) (int, error) {
		n, err := scan(fd, arg)
		unix.Kill(g.pid, unix.SIGKILL)
		var entry [8]byte
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			if n, _ := unix.Pread(fd, entry[:], int64(g.addr/PageSize*8)); n == 0 {
				break
			}
		}
		return n, err
	}
	var err error
	for _, err = range m.Populated(Range{End: m.Size()}) {
	}
	if !errors.Is(err, errEnded) {
		t.Errorf("Populated: %v", err)
	}
}

// TestWithoutScanSideBySide (issue 16, point 10) asks from several goroutines on a kernel without PAGEMAP_SCAN: a data race,
// under -race.
func TestWithoutScanSideBySide(t *testing.T) {
	g := newGuest(t, "anonymous")
	m := g.open(Read)
	g.do("write", 7, 1)
	g.calls.Scan = func(int, unsafe.Pointer) (int, error) { return 0, unix.ENOTTY }
	var all sync.WaitGroup
	for range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			for _, err := range m.Populated(Range{End: m.Size()}) {
				if err != nil {
					t.Error(err)
				}
			}
		}()
	}
	all.Wait()
}
