// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
)

// Calls are the system calls through which guest memory is looked at, read and written, as a seam: a test
// replaces some of them to fail, to shorten or to delay, and so sees what the rest of Ramjet makes of it.
type Calls struct {
	ReadVM   func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) // process_vm_readv(2)
	WriteVM  func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) // process_vm_writev(2)
	Pread    func(fd int, p []byte, off int64) (int, error)
	Pwrite   func(fd int, p []byte, off int64) (int, error)
	Seek     func(fd int, off int64, whence int) (int64, error)
	Resident func(f *os.File, off, n int64) (int64, error) // bytes in the page cache: cachestat(2)
	Scan     func(fd int, arg unsafe.Pointer) (int, error) // ioctl(PAGEMAP_SCAN)
}

var calls = Calls{
	ReadVM:   unix.ProcessVMReadv,
	WriteVM:  unix.ProcessVMWritev,
	Pread:    unix.Pread,
	Pwrite:   unix.Pwrite,
	Seek:     unix.Seek,
	Resident: directio.Resident,
	Scan: func(fd int, arg unsafe.Pointer) (int, error) {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), PagemapScan, uintptr(arg))
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	},
}

// Inject puts a test's calls in place of the system's; change gets the present ones to wrap. The returned function
// undoes it. Not for use while memory is being read.
func Inject(change func(*Calls)) (undo func()) {
	old := calls
	change(&calls)
	return func() { calls = old }
}
