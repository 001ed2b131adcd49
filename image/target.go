// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Target is an image in the making. Until Publish its file has no name, or, where the file system cannot make such files (NFS, FUSE), a
// temporary one in the same directory.
//
// Open may be called from several goroutines at a time if nothing is kept; everything else from one.
type Target struct {
	path      string
	names     directio.Names
	force     bool               // another file at path may be replaced
	File      *directio.File     // buffered, for all but pages
	hidden    string             // the temporary name, used if the file has to have one
	named     bool               // the file has the temporary name now
	kept      map[int][]*os.File // descriptions that Keep made, by flags
	publisher *publisher         // gives the file its name; nil: this process does
	Commit    func() error       // asked for permission to give the file its name once all is on the disk; nil: not asked
}

// NewTarget makes the unfinished file, with mode 0600: guest memory is as secret as the guest. With force an image at the path may be
// replaced.
func NewTarget(path string, force bool, calls *sys.Calls) (*Target, error) {
	if err := checkTarget(path, force); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	hidden := fmt.Sprintf(".%.200s.%08x.unfinished", filepath.Base(path), rand.Uint32())
	t := &Target{path: path, force: force, names: directio.Names{Calls: calls}, hidden: filepath.Join(dir, hidden)}
	f, err := t.names.CreateUnnamed(dir)
	if err != nil {
		f, err = t.names.Create(t.hidden)
		t.named = err == nil
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the directory %s does not exist: make it, or save elsewhere", dir)
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%s is not a directory", dir)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("no permission to write into %s", dir)
	case err != nil:
		return nil, fmt.Errorf("cannot make a file in %s: %w", dir, err)
	}
	t.File, err = directio.NewFile(f, calls)
	return t, err
}

// checkTarget refuses a path at which no image can be made, or may be.
func checkTarget(path string, force bool) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return nil // making the file fails too, with a better sentence
	case st.IsDir():
		return fmt.Errorf("%s is a directory: name a file in it", path)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: an image needs one", path)
	case !force:
		return fmt.Errorf("%s exists: choose another name, or replace it with --force", path)
	}
	return nil
}

// Open opens the unfinished file anew, or duplicates a description that Keep made.
func (t *Target) Open(flags int) (*os.File, error) {
	if kept := t.kept[flags]; len(kept) > 0 {
		t.kept[flags] = append(kept[1:], kept[0])
		return duplicate(kept[0])
	}
	return directio.Reopen{File: t.File.File, Calls: t.names.Calls}.Open(flags)
}

// Keep opens the file n times with these flags, for a process that gives up the right to open files. Open then gives out these
// descriptions in turn: n files that are in use at a time have different ones. If not all can be opened, none is kept.
func (t *Target) Keep(n, flags int) error {
	for range n {
		f, err := directio.Reopen{File: t.File.File, Calls: t.names.Calls}.Open(flags)
		if err != nil {
			t.forget()
			return err
		}
		if t.kept == nil {
			t.kept = map[int][]*os.File{}
		}
		t.kept[flags] = append(t.kept[flags], f)
	}
	return nil
}

// forget closes the kept descriptions.
func (t *Target) forget() {
	for _, kept := range t.kept {
		for _, f := range kept {
			f.Close()
		}
	}
	t.kept = nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "duplicate", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Files are the paths that a guardian should remove, if they exist, when this process dies.
func (t *Target) Files() []string { return []string{t.hidden} }

// Discard gives the unfinished file up. After Publish it only closes the file.
func (t *Target) Discard() {
	switch {
	case t.publisher != nil:
		_, _ = t.publisher.ask(orderDiscard)
		t.publisher.Close()
	case t.named:
		_ = t.names.Remove(t.hidden)
	}
	t.forget()
	t.File.Close()
}
