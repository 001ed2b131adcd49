// SPDX-License-Identifier: Apache-2.0

package directio

import "golang.org/x/sys/unix"

// Calls are the system calls through which data and files change hands, as a
// seam: a test replaces some of them to fail, to shorten or to delay, and so
// sees what the rest of Ramjet makes of it.
type Calls struct {
	Open      func(path string, flags int) (int, error)
	Pread     func(fd int, p []byte, off int64) (int, error)
	Pwrite    func(fd int, p []byte, off int64) (int, error)
	Fsync     func(fd int) error
	Ftruncate func(fd int, size int64) error
}

func systemCalls() Calls {
	return Calls{
		Open:      func(path string, flags int) (int, error) { return unix.Open(path, flags, 0) },
		Pread:     unix.Pread,
		Pwrite:    unix.Pwrite,
		Fsync:     unix.Fsync,
		Ftruncate: unix.Ftruncate,
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

type system struct{}

var sys system

// ignoringEINTR repeats a call that a signal interrupted before it did anything.
func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func (system) open(path string, flags int) (fd int, err error) {
	err = ignoringEINTR(func() error { fd, err = calls.Open(path, flags); return err })
	return fd, err
}
