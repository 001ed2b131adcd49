// SPDX-License-Identifier: Apache-2.0

// Package directio reads and writes files at offsets, past the page cache where the file takes it.
//
// It knows what O_DIRECT asks of memory and offsets (Alignment), gives out
// memory that satisfies it (Buffer), moves whole extents or says why not
// (File), chooses between direct and buffered access (Mode), and names files
// durably. It knows nothing of images or guests.
//
// Direct and buffered access to one file go through two open file
// descriptions: the flag belongs to the description, and duplicates share it
// (fcntl(2), F_SETFL). An Opener makes descriptions; a path and a set of
// passed descriptors both are one.
package directio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Opener makes a new way to one file for each call, with exactly the access
// mode and the O_DIRECT bit of flags (open(2)). The caller closes what it gets.
type Opener interface {
	Open(flags int) (*os.File, error)
}

// Reopen is an Opener of the file behind an open descriptor, which may have no
// name (O_TMPFILE, memfd). It needs /proc.
type Reopen struct {
	File  *os.File
	Calls *sys.Calls // nil: the kernel's
}

// Open opens the same inode anew; the new description shares nothing with File.
func (r Reopen) Open(flags int) (*os.File, error) {
	return openAt(r.Calls, fmt.Sprintf("/proc/self/fd/%d", r.File.Fd()), r.File.Name(), flags)
}

// Path is an Opener of a named file. It creates nothing.
type Path string

// Open opens the file by its name.
func (p Path) Open(flags int) (*os.File, error) { return openAt(nil, string(p), string(p), flags) }

func openAt(calls *sys.Calls, path, name string, flags int) (*os.File, error) {
	fd, err := sys.RetryValue(func() (int, error) { return sys.Of(calls).Open(path, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		if flags&unix.O_DIRECT != 0 && errors.Is(err, unix.EINVAL) {
			return nil, &os.PathError{Op: "open", Path: name, Err: ErrNoDirect}
		}
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ErrNoDirect: the file system refuses O_DIRECT for the file (open(2), EINVAL).
var ErrNoDirect = errors.New("the file system does not support O_DIRECT")
