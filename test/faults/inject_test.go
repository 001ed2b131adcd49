// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"golang.org/x/sys/unix"
)

// kind is which call it is: faults differ in which they can befall.
type kind string

const (
	open      kind = "open"
	pread     kind = "pread"
	pwrite    kind = "pwrite"
	fallocate kind = "fallocate"
	fsync     kind = "fsync"
	ftruncate kind = "ftruncate"
	link      kind = "link"
	rename    kind = "rename"
	unlink    kind = "unlink"
	readVM    kind = "process_vm_readv"
	writeVM   kind = "process_vm_writev"
	memPread  kind = "pread of guest memory"
	memPwrite kind = "pwrite of guest memory"
	seek      kind = "lseek"
	scan      kind = "ioctl(PAGEMAP_SCAN)"
	send      kind = "send to the monitor"
	receive   kind = "receive from the monitor"
)

// act says what becomes of a call: cut is by how much to shorten what it moves at most (0: not at all), and
// err what it returns instead of being made.
type act func(k kind, length int) (cut int, err error)

// injected is the kernel's calls, each of which passes by a.
func injected(a act) *sys.Calls {
	c := sys.Kernel()
	wrapFiles(c, a)
	wrapMemory(c, a)
	wrapMonitor(c, a)
	return c
}

// withoutUnnamed has the file system refuse files without names, as NFS and FUSE do.
func withoutUnnamed(c *sys.Calls) {
	old := c.Open
	c.Open = func(path string, flags int, mode uint32) (int, error) {
		if flags&unix.O_TMPFILE == unix.O_TMPFILE {
			return -1, unix.EOPNOTSUPP
		}
		return old(path, flags, mode)
	}
}

type transfer = func(int, []byte, int64) (int, error)

// transfer is the call to the file or, where the descriptor is of guest memory, to that.
func (a act) transfer(toFile, toMemory kind, call transfer) transfer {
	return func(fd int, p []byte, off int64) (int, error) {
		k := toFile
		if ofMemory(fd) {
			k = toMemory
		}
		cut, err := a(k, len(p))
		if err != nil {
			return -1, err
		}
		return call(fd, p[:len(p)-cut], off)
	}
}

// ofMemory reports whether a descriptor is of a guest's memory, or of its page map.
func ofMemory(fd int) bool {
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/memfd:memory-backend-memfd")
}

func (a act) plain(k kind, call func() error) error {
	if _, err := a(k, 0); err != nil {
		return err
	}
	return call()
}

func wrapFiles(c *sys.Calls, a act) {
	old := *c
	c.Open = func(path string, flags int, mode uint32) (fd int, err error) {
		err = a.plain(open, func() error { fd, err = old.Open(path, flags, mode); return err })
		return fd, err
	}
	c.Pread, c.Pwrite = a.transfer(pread, memPread, old.Pread), a.transfer(pwrite, memPwrite, old.Pwrite)
	c.Fallocate = func(fd int, mode uint32, off, n int64) error {
		return a.plain(fallocate, func() error { return old.Fallocate(fd, mode, off, n) })
	}
	c.Fsync = func(fd int) error { return a.plain(fsync, func() error { return old.Fsync(fd) }) }
	c.Ftruncate = func(fd int, n int64) error { return a.plain(ftruncate, func() error { return old.Ftruncate(fd, n) }) }
	c.Link = func(from, to string) error { return a.plain(link, func() error { return old.Link(from, to) }) }
	c.Rename = func(from, to string, flags uint) error {
		return a.plain(rename, func() error { return old.Rename(from, to, flags) })
	}
	c.Unlink = func(path string) error { return a.plain(unlink, func() error { return old.Unlink(path) }) }
}

type vmCall = func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error)

func (a act) vm(k kind, call vmCall) vmCall {
	return func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) {
		cut, err := a(k, int(local[0].Len))
		if err != nil {
			return -1, err
		}
		local[0].SetLen(int(local[0].Len) - cut)
		return call(pid, local, remote, flags)
	}
}

func wrapMemory(c *sys.Calls, a act) {
	old := *c
	c.ReadVM, c.WriteVM = a.vm(readVM, old.ReadVM), a.vm(writeVM, old.WriteVM)
	c.Seek = func(fd int, off int64, whence int) (n int64, err error) {
		err = a.plain(seek, func() error { n, err = old.Seek(fd, off, whence); return err })
		return n, err
	}
	c.Scan = func(fd int, arg unsafe.Pointer) (n int, err error) {
		err = a.plain(scan, func() error { n, err = old.Scan(fd, arg); return err })
		return n, err
	}
}

func wrapMonitor(c *sys.Calls, a act) {
	old := *c
	c.Receive = func(conn *net.UnixConn, p []byte) (int, error) {
		n, err := old.Receive(conn, p)
		if err != nil {
			return n, err
		}
		// After the fact: a connection on which nothing comes is read from all the time.
		if _, err := a(receive, 0); err != nil {
			return 0, err
		}
		return n, nil
	}
	c.Send = func(conn *net.UnixConn, p []byte) (n int, err error) {
		err = a.plain(send, func() error { n, err = old.Send(conn, p); return err })
		return n, err
	}
	c.SendFDs = func(conn *net.UnixConn, p, rights []byte) (int, error) {
		cut, err := a(send, len(p))
		if err != nil {
			return 0, err
		}
		return old.SendFDs(conn, p[:len(p)-cut], rights)
	}
}

// record makes a run of work and returns its calls in their order.
func record(work func(*sys.Calls)) []kind {
	var mu sync.Mutex
	var made []kind
	work(injected(func(k kind, _ int) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		made = append(made, k)
		return 0, nil
	}))
	mu.Lock()
	defer mu.Unlock()
	return made
}

// strike lets call number at (from 1) fail, and with lasting all those of its kind after it. The calls of
// several goroutines come in another order each time; struck says which it was.
type strike struct {
	at      int64
	lasting bool
	fault   fault

	n      atomic.Int64
	struck atomic.Pointer[kind]
}

func (s *strike) act(k kind, length int) (cut int, err error) {
	n := s.n.Add(1)
	if n < s.at || !s.fault.befalls(k) {
		return 0, nil
	}
	first := s.struck.CompareAndSwap(nil, &k)
	if !first && (!s.lasting || *s.struck.Load() != k) {
		return 0, nil
	}
	return s.fault.do(k, length)
}

func (s *strike) String() string {
	k := kind("nothing")
	if p := s.struck.Load(); p != nil {
		k = *p
	}
	return fmt.Sprintf("%s at %s, the first after call %d", s.fault.name, k, s.at-1)
}
