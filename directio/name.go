// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// secret is the mode of files made here: guest memory is as secret as the guest.
const secret = 0o600

// Names makes, names and removes files. The zero value does it by the kernel's sys.Of(n.Calls).
type Names struct{ Calls *sys.Calls }

// CreateUnnamed makes a file in dir that has no name and is gone when it is closed, unless Link gives it one
// (O_TMPFILE, open(2)). NFS and most FUSE file systems cannot do that.
func (n Names) CreateUnnamed(dir string) (*os.File, error) {
	return n.create(dir, filepath.Join(dir, "(unfinished)"), unix.O_TMPFILE|os.O_RDWR)
}

// Create makes a file where nothing is.
func (n Names) Create(path string) (*os.File, error) {
	return n.create(path, path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (n Names) create(path, name string, flags int) (*os.File, error) {
	fd, err := sys.RetryValue(func() (int, error) { return sys.Of(n.Calls).Open(path, flags|unix.O_CLOEXEC, secret) })
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Link gives the file behind an open descriptor a name, another one if it has one. It replaces nothing (EEXIST). It needs /proc.
func (n Names) Link(f *os.File, path string) error {
	from := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	return linked(f.Name(), path, sys.Retry(func() error { return sys.Of(n.Calls).Link(from, path) }))
}

// Rename gives a file another name, in place of what has it now.
func (n Names) Rename(from, to string) error {
	return linked(from, to, sys.Retry(func() error { return sys.Of(n.Calls).Rename(from, to, 0) }))
}

// RenameNew is Rename for a name that nothing has (else EEXIST).
func (n Names) RenameNew(from, to string) error {
	err := sys.Retry(func() error { return sys.Of(n.Calls).Rename(from, to, unix.RENAME_NOREPLACE) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// NFS and some FUSE file systems know no flags; a link is refused over an existing name too.
		if err = sys.Retry(func() error { return sys.Of(n.Calls).Link(from, to) }); err == nil {
			return n.Remove(from)
		}
	}
	return linked(from, to, err)
}

func linked(from, to string, err error) error {
	if err != nil {
		return &os.LinkError{Op: "name", Old: from, New: to, Err: err}
	}
	return nil
}

// Remove takes a file's name away.
func (n Names) Remove(path string) error {
	if err := sys.Retry(func() error { return sys.Of(n.Calls).Unlink(path) }); err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// SyncDir makes durable what was named, renamed and removed in a directory.
func (n Names) SyncDir(dir string) error {
	d, err := openAt(n.Calls, dir, dir, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	return (&File{File: d, Calls: n.Calls}).Sync()
}
