// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
)

// Target is an image in the making. It has no name, or where the file system cannot do that (NFS,
// FUSE) a temporary one in the same directory, until Publish; so nothing partial can be taken for an image, and what
// lies at the path stays there until the whole new one replaces it.
type Target struct {
	path      string
	force     bool
	File      *directio.File     // buffered, for all but pages
	hidden    string             // its temporary name, if it has to have one
	named     bool               // it has it
	kept      map[int][]*os.File // by flags, see keep
	publisher *publisher         // gives it its name; nil: this process does
	Commit    func() error       // asked whether it may have its name once all is on the disk; nil: it may
}

// NewTarget makes the unfinished file, 0600: guest memory is as secret as the guest.
func NewTarget(path string, force bool) (*Target, error) {
	if err := checkTarget(path, force); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	hidden := fmt.Sprintf(".%.200s.%08x.unfinished", filepath.Base(path), rand.Uint32())
	t := &Target{path: path, force: force, hidden: filepath.Join(dir, hidden)}
	f, err := directio.CreateUnnamed(dir)
	if err != nil {
		f, err = directio.Create(t.hidden)
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
	t.File, err = directio.NewFile(f)
	return t, err
}

// checkTarget looks at what is at the path now.
func checkTarget(path string, force bool) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return nil // the directory will tell, with a better sentence
	case st.IsDir():
		return fmt.Errorf("%s is a directory: name a file in it", path)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: an image needs one", path)
	case !force:
		return fmt.Errorf("%s exists: choose another name, or replace it with --force", path)
	}
	return nil
}

// Open makes another description of the unfinished file, or gives out one that was kept.
func (t *Target) Open(flags int) (*os.File, error) {
	if kept := t.kept[flags]; len(kept) > 0 {
		t.kept[flags] = append(kept[1:], kept[0])
		return duplicate(kept[0])
	}
	return directio.Reopen{File: t.File.File}.Open(flags)
}

// Keep makes n descriptions with flags, for when no path can be opened any more. Open gives them out in turn, as often as it is called:
// of n files that are in use at a time no two have the same. Where they cannot all be made none is kept.
func (t *Target) Keep(n, flags int) error {
	for range n {
		f, err := directio.Reopen{File: t.File.File}.Open(flags)
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

// forget closes what was kept.
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

// Files are what a guardian should remove, if it is there, when we die.
func (t *Target) Files() []string { return []string{t.hidden} }

// Publish makes the file durable and gives it its name. The rename is durable too when it returns nil. With
// dropCache nothing of it stays in the page cache. synced is how long it took to make the file durable; naming it took the rest.
func (t *Target) Publish(dropCache bool) (synced time.Duration, err error) {
	began := time.Now()
	err = t.File.Sync()
	synced = time.Since(began)
	if err != nil {
		return synced, fmt.Errorf("the image did not reach the disk: %w", err)
	}
	return synced, t.putInPlace(dropCache)
}

// putInPlace gives the durable file its name, if nothing speaks against it at the last moment, and makes that durable.
func (t *Target) putInPlace(dropCache bool) error {
	if dropCache {
		_ = unix.Fadvise(int(t.File.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	if t.Commit != nil {
		if err := t.Commit(); err != nil {
			return err
		}
	}
	if t.publisher != nil {
		a, err := t.publisher.ask(orderPublish)
		t.named = a.Named
		return err
	}
	return t.nameDurably()
}

// nameDurably gives the file its name, and makes that durable.
func (t *Target) nameDurably() error {
	old := t.holdOld()
	defer old.Close()
	if err := t.name(); err != nil {
		return fmt.Errorf("cannot give the image its name: %w", err)
	}
	if err := directio.SyncDir(filepath.Dir(t.path)); err != nil {
		return fmt.Errorf("cannot make the image's name durable: %w", err)
	}
	return nil
}

// holdOld keeps the file that is about to be replaced until the new one is published: to free its blocks takes
// the file system a third of a second for some gigabytes, which durability need not wait for.
func (t *Target) holdOld() *os.File {
	if !t.force {
		return nil
	}
	fd, err := unix.Open(t.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), t.path)
}

// name links or renames the file to its path: never over something that was not to be replaced.
func (t *Target) name() error {
	if !t.named && !t.force {
		return t.exists(directio.Link(t.File.File, t.path))
	}
	if !t.named {
		// There is no call that links over an existing name, so it takes a step between.
		if err := directio.Link(t.File.File, t.hidden); err != nil {
			return err
		}
		t.named = true
	}
	rename := directio.RenameNew
	if t.force {
		rename = directio.Rename
	}
	if err := rename(t.hidden, t.path); err != nil {
		return t.exists(err)
	}
	t.named = false
	return nil
}

func (t *Target) exists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s has come into being meanwhile: choose another name, or replace it with --force", t.path)
	}
	return err
}

// Discard gives the file up; after Publish it only closes it.
func (t *Target) Discard() {
	switch {
	case t.publisher != nil:
		_, _ = t.publisher.ask(orderDiscard)
		t.publisher.Close()
	case t.named:
		_ = directio.Remove(t.hidden)
	}
	t.forget()
	t.File.Close()
}

// Scratch is a file for page sums: beside the image, since they are too many for memory with a large guest, or in memory
// where that cannot be.
func Scratch(dir string) (*os.File, error) {
	if f, err := directio.CreateUnnamed(dir); err == nil {
		return f, nil
	}
	fd, err := unix.MemfdCreate("ramjet-page-sums", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a scratch file: %w", err)
	}
	return os.NewFile(uintptr(fd), "page sums"), nil
}

// Beside makes a scratch file beside another file.
func Beside(path string) func() (*os.File, error) {
	return func() (*os.File, error) { return Scratch(filepath.Dir(path)) }
}
