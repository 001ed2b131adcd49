// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
)

// How an image is published, so that a crash at any moment leaves the old image or the whole new one, and nothing partial that is taken
// for an image. There are two ways, of three steps each.
//
// A new file (Target.Publish): the file has no name, or a temporary one that begins with a dot and ends in .unfinished.
//
//	1 sync the file          a crash before 2 leaves no image: a file without a name is gone, one with a temporary name is no image's
//	2 link or rename it      atomic: the path has the old file or the new one, whose content is durable since 1
//	3 sync its directory     a crash before 3 has ended may undo 2, and leaves the old image; after 3 the new one is there to stay
//
// A file that has its name already (PublishInPlace), since all that there is of it is a passed descriptor: the first eight bytes, the
// magic, are not written yet, and without them nothing takes the file for an image.
//
//	1 sync the file          a crash before 2 leaves a file without a magic
//	2 write the magic        until all of its bytes are on the disk, nothing takes the file for an image
//	3 sync the file          a crash before 3 has ended leaves a file without a magic, or the whole image
//
// Success is reported after 3 only.

// ErrNotDurable: the new image has its name, and lies there whole, but step 3 failed. After a crash the old image may be back.
var ErrNotDurable = errors.New("cannot make the image's name durable")

// Publish makes the file durable and gives it its name, which is durable too when Publish returns nil. With dropCache nothing of the
// file stays in the page cache. synced is how long it took to make the file durable; naming it took the rest.
func (t *Target) Publish(dropCache bool) (synced time.Duration, err error) {
	began := time.Now()
	err = t.File.Sync()
	synced = time.Since(began)
	if err != nil {
		return synced, fmt.Errorf("the image did not reach the disk: %w", err)
	}
	return synced, t.putInPlace(dropCache)
}

// putInPlace gives the durable file its name, unless Commit refuses, and makes the name durable.
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

// nameDurably gives the file its name and makes the name durable.
func (t *Target) nameDurably() error {
	old := t.holdOld()
	defer old.Close()
	if err := t.name(); err != nil {
		return fmt.Errorf("cannot give the image its name: %w", err)
	}
	if err := t.names.SyncDir(filepath.Dir(t.path)); err != nil {
		return fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	return nil
}

// holdOld keeps the file that is about to be replaced open until the new one is published: the file system takes a third of a second to
// free some gigabytes, and durability need not wait for that.
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

// name links or renames the file to its path. Without force it never replaces a file there.
func (t *Target) name() error {
	if !t.named && !t.force {
		return t.exists(t.names.Link(t.File.File, t.path))
	}
	if !t.named {
		// No system call links a file over an existing name, so the file gets its temporary name first.
		if err := t.names.Link(t.File.File, t.hidden); err != nil {
			return err
		}
		t.named = true
	}
	rename := t.names.RenameNew
	if t.force {
		rename = t.names.Rename
	}
	if err := rename(t.hidden, t.path); err != nil {
		return t.exists(err)
	}
	t.named = false
	return nil
}

// exists explains the error of naming the file where another one is.
func (t *Target) exists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s has come into being meanwhile: choose another name, or replace it with --force", t.path)
	}
	return err
}

// PublishInPlace publishes an image in a file that has its name already, by its magic. All that w writes besides, and all pages, have
// to be written. commit, if it is not nil, may refuse when all but the magic is on the disk.
func PublishInPlace(f *directio.File, w *Writer, commit func() error) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if commit != nil {
		if err := commit(); err != nil {
			return err
		}
	}
	if err := w.Magic(); err != nil {
		return err
	}
	return f.Sync()
}
