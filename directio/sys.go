// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Calls are the system calls through which data, files and names change hands, as a
// seam: a test replaces some of them to fail, to shorten or to delay, and so
// sees what the rest of Ramjet makes of it. What they are given and return is what the system call is and does.
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
}

func systemCalls() Calls {
	return Calls{
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
	}
}

var calls = systemCalls()

// Inject puts a test's calls in place of the system's; change gets the present
// ones to wrap. The returned function undoes it. Not for use while I/O is under way.
func Inject(change func(*Calls)) (undo func()) {
	old := calls
	change(&calls)
	return func() { calls = old }
}

// open is open(2).
func open(path string, flags int, mode uint32) (fd int, err error) {
	err = sys.Retry(func() error { fd, err = calls.Open(path, flags, mode); return err })
	return fd, err
}
