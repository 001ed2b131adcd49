// SPDX-License-Identifier: Apache-2.0

// Package sys has what every user of system calls needs once: calls repeated after EINTR, transfers that are whole, the size of a page.
package sys

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// PageSize is the size of a page of guest and host, in bytes: Ramjet runs on x86-64 (README).
const PageSize = 4096

// Retry repeats a call that a signal interrupted before it did anything (EINTR).
func Retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// RetryValue is Retry for a call that has a result.
func RetryValue[T any](call func() (T, error)) (v T, err error) {
	err = Retry(func() error { v, err = call(); return err })
	return v, err
}

// Whole calls pread(2), pwrite(2) or what is like them until all of p is moved, and returns how much it was: the kernel may end
// a transfer early, at a signal or a limit. Where a call moves nothing, as at the end of a file, Whole ends without an error.
func Whole(call func(fd int, p []byte, off int64) (int, error), fd int, p []byte, off int64) (done int, err error) {
	for done < len(p) {
		n, err := RetryValue(func() (int, error) { return call(fd, p[done:], off+int64(done)) })
		if err != nil || n <= 0 {
			return done, err
		}
		done += n
	}
	return done, nil
}

// ReadAll reads all of p at off. ended is true, and err nil, if the file ends before that; then n is how much there was.
func ReadAll(r io.ReaderAt, p []byte, off int64) (n int, ended bool, err error) {
	n, err = r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, false, nil
	case err == nil || errors.Is(err, io.EOF):
		return n, true, nil
	}
	return n, false, err
}
