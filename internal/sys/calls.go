// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls are the system calls on files, names, the memory of other processes and monitor connections. They are a seam for tests: a
// test gives Calls that fail, shorten or delay to what it makes, and checks how the rest of Ramjet deals with that. The functions
// take and return what the system call does. A nil *Calls is the kernel's own; see Of.
type Calls struct {
	Open      func(path string, flags int, mode uint32) (int, error)
	Pread     func(fd int, p []byte, off int64) (int, error)
	Pwrite    func(fd int, p []byte, off int64) (int, error)
	Fallocate func(fd int, mode uint32, off, n int64) error
	Fsync     func(fd int) error
	Ftruncate func(fd int, size int64) error
	Link      func(from, to string) error // following from, if it is a symbolic link
	Rename    func(from, to string, flags uint) error
	Unlink    func(path string) error
	Seek      func(fd int, off int64, whence int) (int64, error)
	Cachestat func(fd uint, r *unix.CachestatRange, stat *unix.Cachestat_t) error

	ReadVM  func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) // process_vm_readv(2)
	WriteVM func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) // process_vm_writev(2)
	Scan    func(fd int, arg unsafe.Pointer) (int, error)                                         // ioctl(PAGEMAP_SCAN)

	Receive func(conn *net.UnixConn, p []byte) (int, error)
	Send    func(conn *net.UnixConn, p []byte) (int, error)
	SendFDs func(conn *net.UnixConn, p []byte, rights []byte) (int, error) // may take less than all of p
}

// PagemapScan is the request of ioctl(2) on /proc/PID/pagemap (Linux 6.7): _IOWR('f', 16, struct pm_scan_arg).
const PagemapScan = 0xc0606610

var kernel = Calls{
	Open:      unix.Open,
	Pread:     unix.Pread,
	Pwrite:    unix.Pwrite,
	Fallocate: unix.Fallocate,
	Fsync:     unix.Fsync,
	Ftruncate: unix.Ftruncate,
	Link: func(from, to string) error {
		return unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
	},
	Rename: func(from, to string, flags uint) error {
		if flags == 0 {
			return unix.Rename(from, to) // some file systems refuse renameat2(2) whatever the flags are
		}
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	},
	Unlink: unix.Unlink,
	Seek:   unix.Seek,
	Cachestat: func(fd uint, r *unix.CachestatRange, stat *unix.Cachestat_t) error {
		return unix.Cachestat(fd, r, stat, 0)
	},
	ReadVM:  unix.ProcessVMReadv,
	WriteVM: unix.ProcessVMWritev,
	Scan: func(fd int, arg unsafe.Pointer) (int, error) {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), PagemapScan, uintptr(arg))
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	},
	Receive: (*net.UnixConn).Read,
	Send:    (*net.UnixConn).Write,
	SendFDs: func(conn *net.UnixConn, p []byte, rights []byte) (int, error) {
		n, _, err := conn.WriteMsgUnix(p, rights, nil)
		return n, err
	},
}

// Of returns c, or the kernel's calls if c is nil.
func Of(c *Calls) *Calls {
	if c == nil {
		return &kernel
	}
	return c
}

// Kernel returns a copy of the kernel's calls, for a test to change while nothing uses it.
func Kernel() *Calls {
	c := kernel
	return &c
}
