// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// File moves whole extents between memory and one open file description.
// Its methods may be called from several goroutines at a time; none moves
// the file position.
type File struct {
	*os.File
	Calls  *sys.Calls // nil: the kernel's
	direct bool
}

// NewFile wraps f and takes it over. Whether it is direct is read from f
// itself (F_GETFL): the descriptor decides, not a flag that somebody passed.
func NewFile(f *os.File, calls *sys.Calls) (*File, error) {
	fl, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "F_GETFL", Path: f.Name(), Err: err}
	}
	return &File{File: f, Calls: calls, direct: fl&unix.O_DIRECT != 0}, nil
}

// Open opens through o and wraps the result.
func Open(o Opener, flags int, calls *sys.Calls) (*File, error) {
	f, err := o.Open(flags)
	if err != nil {
		return nil, err
	}
	d, err := NewFile(f, calls)
	if err != nil {
		f.Close()
	}
	return d, err
}

// Direct reports whether transfers go past the page cache. They must be
// aligned then, memory and offset, as ProbeAlignment says.
func (f *File) Direct() bool { return f.direct }

// WriteAt writes all of p at off or returns an error that says how far it came
// and where. A short write is continued: the kernel may end one at a signal,
// at RLIMIT_FSIZE or when the device fills up, and only the next call says which.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	return f.whole("write", p, off, sys.Of(f.Calls).Pwrite, io.ErrShortWrite)
}

// ReadAt fills p from off. At the end of the file it returns io.EOF with what
// there was (io.ReaderAt).
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	return f.whole("read", p, off, sys.Of(f.Calls).Pread, io.EOF)
}

func (f *File) whole(op string, p []byte, off int64, call func(int, []byte, int64) (int, error), end error) (int, error) {
	done, again := 0, -1
	for done < len(p) {
		n, err := call(int(f.Fd()), p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, f.failed(op, off+int64(done), len(p)-done, err)
		case n == 0 && end == io.EOF:
			return done, io.EOF
		case n <= 0 || n > len(p)-done:
			return done, f.failed(op, off+int64(done), len(p)-done, end)
		}
		done += n
		if f.direct && done < len(p) && done%PageSize != 0 {
			// What is left is no longer aligned; begin the broken page again. When it breaks again that is the end of the
			// file or device.
			page := done &^ (PageSize - 1)
			if page == again {
				return done, f.failed(op, off+int64(done), len(p)-done, end)
			}
			done, again = page, page
		}
	}
	return done, nil
}

func (f *File) failed(op string, off int64, n int, err error) error {
	if f.direct && errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w (direct I/O not accepted: try --direct-io=off)", err)
	}
	return &os.PathError{Op: fmt.Sprintf("%s %d bytes at %d of", op, n, off), Path: f.Name(), Err: err}
}

// Sync makes everything written durable (fsync(2)).
func (f *File) Sync() error {
	if err := sys.Retry(func() error { return sys.Of(f.Calls).Fsync(int(f.Fd())) }); err != nil {
		return &os.PathError{Op: "fsync", Path: f.Name(), Err: err}
	}
	return nil
}

// Truncate sets the file's length; what is beyond it is gone, what is new is a hole.
func (f *File) Truncate(size int64) error {
	if err := sys.Retry(func() error { return sys.Of(f.Calls).Ftruncate(int(f.Fd()), size) }); err != nil {
		return &os.PathError{Op: fmt.Sprintf("set the length %d of", size), Path: f.Name(), Err: err}
	}
	return nil
}

// WantsRoom reports whether direct writes from several descriptions go on side by side only where the file has room already.
// ext4 takes the inode's lock for itself for a write that has to find some (ext4_dio_write_checks, Linux 5.6 on).
func (f *File) WantsRoom() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.EXT4_SUPER_MAGIC
}

// Reserve finds room for [off, off+n), which reads as zeros until it is written (fallocate(2)). The file's length stays.
func (f *File) Reserve(off, n int64) error {
	if err := sys.Retry(func() error { return sys.Of(f.Calls).Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n) }); err != nil {
		return &os.PathError{Op: fmt.Sprintf("find room for %d bytes at %d of", n, off), Path: f.Name(), Err: err}
	}
	return nil
}

// Punch makes [off, off+n) a hole (fallocate(2)); what is there reads as zeros then. A file system that has no holes
// refuses it with EOPNOTSUPP.
func (f *File) Punch(off, n int64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := sys.Retry(func() error { return sys.Of(f.Calls).Fallocate(int(f.Fd()), mode, off, n) }); err != nil {
		return &os.PathError{Op: fmt.Sprintf("free %d bytes at %d of", n, off), Path: f.Name(), Err: err}
	}
	return nil
}
