// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"golang.org/x/sys/unix"
)

// has checks what a file at a path holds; "-" stands for no file.
func has(t *testing.T, path, want string) {
	t.Helper()
	got := "-"
	if b, err := os.ReadFile(path); err == nil {
		got = string(b)
	}
	if got != want {
		t.Errorf("%s holds %q, want %q", filepath.Base(path), got, want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// injected are the ways in which RenameNew can be done: as the file system can, or without renameat2's flags.
var injected = map[string]func(*sys.Calls){
	"system": func(*sys.Calls) {},
	"no flags": func(c *sys.Calls) {
		old := c.Rename
		c.Rename = func(from, to string, flags uint) error {
			if flags != 0 {
				return unix.EINVAL
			}
			return old(from, to, flags)
		}
	},
	"interrupted": func(c *sys.Calls) {
		n, link, rename, unlink, open := 0, c.Link, c.Rename, c.Unlink, c.Open
		again := func() bool { n++; return n%2 == 1 }
		c.Link = func(from, to string) error {
			if again() {
				return unix.EINTR
			}
			return link(from, to)
		}
		c.Rename = func(from, to string, flags uint) error {
			if again() {
				return unix.EINTR
			}
			return rename(from, to, flags)
		}
		c.Unlink = func(path string) error {
			if again() {
				return unix.EINTR
			}
			return unlink(path)
		}
		c.Open = func(path string, flags int, mode uint32) (int, error) {
			if again() {
				return -1, unix.EINTR
			}
			return open(path, flags, mode)
		}
	},
}

func TestNames(t *testing.T) {
	for name, change := range injected {
		t.Run(name, func(t *testing.T) {
			n := Names{Calls: sys.Kernel()}
			change(n.Calls)
			dir := t.TempDir()
			a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
			f, err := n.CreateUnnamed(dir)
			if err != nil {
				t.Skip(err) // the file system of the temporary directory cannot do it
			}
			defer f.Close()
			f.WriteString("unnamed")
			if err := n.Link(f, a); err != nil {
				t.Fatal(err)
			}
			has(t, a, "unnamed")
			if st, err := os.Stat(a); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("it is %v, %v", st.Mode(), err)
			}
			if err := n.Link(f, a); !errors.Is(err, fs.ErrExist) {
				t.Errorf("link over a name: %v", err)
			}
			if _, err := n.Create(a); !errors.Is(err, fs.ErrExist) {
				t.Errorf("create over a name: %v", err)
			}
			write(t, b, "other")
			if err := n.RenameNew(a, b); !errors.Is(err, fs.ErrExist) {
				t.Errorf("rename over a name: %v", err)
			}
			has(t, b, "other")
			if err := n.RenameNew(a, c); err != nil {
				t.Error(err)
			}
			has(t, a, "-")
			has(t, c, "unnamed")
			if err := n.Rename(c, b); err != nil {
				t.Error(err)
			}
			has(t, b, "unnamed")
			has(t, c, "-")
			if err := n.Remove(b); err != nil {
				t.Error(err)
			}
			has(t, b, "-")
			if err := n.Remove(b); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("remove again: %v", err)
			}
			if err := n.SyncDir(dir); err != nil {
				t.Error(err)
			}
			if err := n.SyncDir(a); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("sync of no directory: %v", err)
			}
		})
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	f, err := Names{}.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("created")
	has(t, path, "created")
}

// TestSyncsFail has fsync, ftruncate and fallocate fail: the errors say what and of which file.
func TestSyncsFail(t *testing.T) {
	c := sys.Kernel()
	c.Fsync = func(int) error { return unix.EIO }
	c.Ftruncate = func(int, int64) error { return unix.ENOSPC }
	c.Fallocate = func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	f := &File{File: temp(t, PageSize), Calls: c}
	for want, err := range map[error]error{unix.EIO: f.Sync(), unix.ENOSPC: f.Truncate(1 << 20), unix.EOPNOTSUPP: f.Punch(0, PageSize)} {
		var path *os.PathError
		if !errors.Is(err, want) || !errors.As(err, &path) || path.Path != f.Name() {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if err := (Names{c}).SyncDir(t.TempDir()); !errors.Is(err, unix.EIO) {
		t.Errorf("directory: %v", err)
	}
}

// TestResident writes through the page cache and past it, and looks what is there.
func TestResident(t *testing.T) {
	f := temp(t, 16*PageSize)
	if _, err := f.ReadAt(make([]byte, 16*PageSize), 0); err != nil {
		t.Fatal(err)
	}
	n, err := Resident(f, 0, 0)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip(err)
	}
	if err != nil || n != 16*PageSize || !Cached(f, PageSize, 3*PageSize+1) {
		t.Errorf("%d bytes are in the cache, %v", n, err)
	}
	if Cached(f, 0, 17*PageSize) {
		t.Error("what is behind the end is in the cache")
	}
	f.Close()
	if _, err := Resident(f, 0, 0); err == nil || Cached(f, 0, 1) {
		t.Error("a closed file has something in the cache")
	}
}

// TestClosed opens and wraps what cannot be.
func TestClosed(t *testing.T) {
	f := temp(t, 0)
	name := f.Name()
	f.Close()
	if _, err := NewFile(f, nil); err == nil {
		t.Error("a closed file was wrapped")
	}
	if _, err := Open(Path(name+"x"), os.O_RDONLY, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, ok := ProbeAlignment(f); ok {
		t.Error("a closed file has an alignment")
	}
	if fileSystem(f).memory {
		t.Error("a closed file is in memory")
	}
}
