// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// IsDevice reports whether f is a block device. Its length is given, and what it had before stays until it is overwritten.
func IsDevice(f *os.File) (bool, error) {
	var st unix.Stat_t
	if err := sys.Retry(func() error { return unix.Fstat(int(f.Fd()), &st) }); err != nil {
		return false, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Mode&unix.S_IFMT == unix.S_IFBLK, nil
}

// Size is the length, in bytes, of a file, or of a block device, of which stat(2) says 0 (BLKGETSIZE64).
func Size(f *os.File) (int64, error) {
	device, err := IsDevice(f)
	if err != nil {
		return 0, err
	}
	if !device {
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return st.Size(), nil
	}
	n, err := sys.RetryValue(func() (int, error) { return unix.IoctlGetInt(int(f.Fd()), unix.BLKGETSIZE64) })
	if err != nil {
		return 0, &os.PathError{Op: "ask for the size of", Path: f.Name(), Err: err}
	}
	return int64(n), nil
}

// Zero makes [off, off+n) read as zeros: without writing them where the file system or device can do that (Punch), otherwise the
// kernel writes them (FALLOC_FL_ZERO_RANGE), on block devices whatever they can.
func (f *File) Zero(off, n int64) error {
	if f.Punch(off, n) == nil {
		return nil
	}
	const mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	if err := sys.Retry(func() error { return sys.Of(f.Calls).Fallocate(int(f.Fd()), mode, off, n) }); err != nil {
		return &os.PathError{Op: fmt.Sprintf("write zeros over %d bytes at %d of", n, off), Path: f.Name(), Err: err}
	}
	return nil
}
