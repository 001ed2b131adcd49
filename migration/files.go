// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/qmp"
)

// Files opens the files of migrations: from descriptor sets, and by path if Paths allows that.
type Files struct {
	Sets  *fdset.Sets
	Paths bool
}

// Opener returns the opener of path, or an error if path may not be opened.
func (f Files) Opener(path string) (directio.Opener, error) {
	switch {
	case fdset.IsPath(path):
		return fdset.Opener{Sets: f.Sets, Path: path}, nil
	case f.Paths:
		return named(path), nil
	}
	return nil, fmt.Errorf("%s cannot be opened: this ramjet serve runs without access to the file system; "+
		"pass descriptors with add-fd and migrate to file:/dev/fdset/N, or start it with --no-sandbox", path)
}

// named opens the file at a path, with the error texts of QEMU's qemu_open and qemu_create.
type named string

// Open opens the file, and creates it if flags have O_CREAT.
func (n named) Open(flags int) (*os.File, error) {
	verb := "open"
	if flags&unix.O_CREAT != 0 {
		verb = "create"
	}
	fd, err := sys.RetryValue(func() (int, error) { return unix.Open(string(n), flags|unix.O_CLOEXEC, 0o600) })
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), string(n)), nil
	case err == unix.EINVAL && flags&unix.O_DIRECT != 0:
		return nil, fmt.Errorf("Could not %s '%s': filesystem does not support O_DIRECT", verb, string(n))
	}
	return nil, fmt.Errorf("Could not %s '%s': %s", verb, string(n), Strerror(err))
}

// Opened is the file of a migration.
type Opened struct {
	Main  *os.File        // for headers, bitmaps and device state; its position is not used
	Pages directio.Opener // for page channels
	page  *os.File        // the descriptor that Pages duplicates; nil with a path
}

// Open opens the file at an address. A descriptor set is first checked as a whole against need. Descriptors may be
// removed from the set afterwards.
func (f Files) Open(a Address, need fdset.Need) (_ *Opened, err error) {
	o, err := f.Opener(a.Path)
	if err != nil {
		return nil, err
	}
	if a.Offset <= math.MaxInt64 {
		need.Offset = int64(a.Offset)
	}
	set := fdset.IsPath(a.Path)
	if set {
		if err := f.Sets.Check(a.Path, need); err != nil {
			return nil, err
		}
	}
	flags, create, direct := os.O_RDONLY, 0, 0
	if need.Write {
		flags, create = os.O_WRONLY, os.O_CREATE
	}
	if need.Direct {
		direct = unix.O_DIRECT
	}
	opened := &Opened{Pages: o}
	defer func() {
		if err != nil {
			opened.Close()
		}
	}()
	if opened.Main, err = o.Open(flags | create); err != nil {
		return nil, err
	}
	switch {
	case set:
		if opened.page, err = o.Open(flags | direct); err == nil {
			opened.Pages = duplicates{opened.page}
		}
	case need.Direct:
		err = directPath(o, flags)
	}
	return opened, err
}

// Close closes the file's descriptors.
func (o *Opened) Close() {
	for _, f := range []*os.File{o.Main, o.page} {
		if f != nil {
			f.Close()
		}
	}
}

// duplicates opens a file by duplicating a descriptor: all share an open file description, as QEMU's duplicates of a
// set's descriptor do.
type duplicates struct{ f *os.File }

// Open duplicates the descriptor, which was opened with the right flags.
func (d duplicates) Open(int) (*os.File, error) {
	fd, err := unix.FcntlInt(d.f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), d.f.Name()), nil
}

// directPath refuses a path that does not take direct I/O, before anything is changed, as fdset's Check does for a set.
func directPath(o directio.Opener, flags int) error {
	f, err := o.Open(flags | unix.O_DIRECT)
	if err != nil {
		return err
	}
	defer f.Close()
	if a, known := directio.ProbeAlignment(f); known && (a.Offset == 0 || !a.Fits()) {
		return fmt.Errorf("%s does not take direct I/O in units of %d bytes: use another file system, or switch direct-io off",
			f.Name(), directio.PageSize)
	}
	return nil
}

// truncate truncates the file at offset, as file_start_outgoing_migration does. A block device keeps its data, but no
// image begins at offset any more.
func truncate(f *os.File, offset uint64) error {
	if device, err := directio.IsDevice(f); err != nil || device {
		if err == nil {
			err = erase(f, offset)
		}
		return err
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) {
		err = sys.Retry(func() error { return unix.Ftruncate(int(fd), int64(offset)) })
	})
	runtime.KeepAlive(f)
	if err == nil {
		err = cerr
	}
	if err != nil {
		return qmp.Errorf("failed to truncate migration file to offset %x: %s", offset, Strerror(err))
	}
	return nil
}

// Strerror is the text of C's strerror, which begins with a capital.
func Strerror(err error) string {
	var e unix.Errno
	if !errors.As(err, &e) {
		return err.Error()
	}
	s := e.Error()
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		s = string(s[0]-'a'+'A') + s[1:]
	}
	return s
}
