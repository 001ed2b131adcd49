// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/internal/testkit"
)

// names are the names in a directory.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// begun is a target at dir/image with something in it.
func begun(t *testing.T, dir string, force bool, calls *sys.Calls) *Target {
	t.Helper()
	n, err := NewTarget(filepath.Join(dir, "image"), force, calls)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Discard)
	if _, err := n.File.WriteAt([]byte("new"), 0); err != nil {
		t.Fatal(err)
	}
	return n
}

func publish(t *Target) error {
	_, err := t.Publish(false)
	return err
}

// holds checks that a directory holds the image with this content, and nothing else; with "" not even that.
func holds(t *testing.T, dir, content string) {
	t.Helper()
	want := []string{"image"}
	if content == "" {
		want = nil
	}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Fatalf("%s holds %q, want %q", dir, got, want)
	}
	if content == "" {
		return
	}
	b, err := os.ReadFile(filepath.Join(dir, "image"))
	if err != nil || string(b) != content {
		t.Errorf("the image is %q, %v; want %q", b, err, content)
	}
}

// fileSystems are those that can make files without names and those that cannot, or that know no renameat2 either.
var fileSystems = map[string]func(*sys.Calls){
	"all calls": func(*sys.Calls) {},
	"no O_TMPFILE": func(c *sys.Calls) {
		open := c.Open
		c.Open = func(path string, flags int, mode uint32) (int, error) {
			if flags&unix.O_TMPFILE == unix.O_TMPFILE {
				return -1, unix.EOPNOTSUPP
			}
			return open(path, flags, mode)
		}
	},
	"no RENAME_NOREPLACE": func(c *sys.Calls) {
		open, rename := c.Open, c.Rename
		c.Open = func(path string, flags int, mode uint32) (int, error) {
			if flags&unix.O_TMPFILE == unix.O_TMPFILE {
				return -1, unix.EISDIR
			}
			return open(path, flags, mode)
		}
		c.Rename = func(from, to string, flags uint) error {
			if flags != 0 {
				return unix.EINVAL
			}
			return rename(from, to, flags)
		}
	},
}

// TestPublish: what is at the path is what was there, or the whole new image, and it is never partial or in company.
func TestPublish(t *testing.T) {
	for name, change := range fileSystems {
		t.Run(name, func(t *testing.T) {
			c := sys.Kernel()
			change(c)
			t.Run("new", func(t *testing.T) {
				dir := t.TempDir()
				n := begun(t, dir, false, c)
				if slices.Contains(names(t, dir), "image") {
					t.Error("it has its name before it is published")
				}
				if err := publish(n); err != nil {
					t.Fatal(err)
				}
				n.Discard()
				holds(t, dir, "new")
				st, err := os.Stat(filepath.Join(dir, "image"))
				if err != nil || st.Mode() != 0o600 {
					t.Errorf("mode %v, %v", st.Mode(), err)
				}
			})
			t.Run("discarded", func(t *testing.T) {
				dir := t.TempDir()
				begun(t, dir, false, c).Discard()
				holds(t, dir, "")
			})
			t.Run("replaced", func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "image")
				os.WriteFile(path, []byte("old"), 0o644)
				if _, err := NewTarget(path, false, c); err == nil || !strings.Contains(err.Error(), "--force") {
					t.Errorf("without --force: %v", err)
				}
				begun(t, dir, true, c).Discard()
				holds(t, dir, "old")
				n := begun(t, dir, true, c)
				if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
					t.Errorf("before it is published: %q, %v", b, err)
				}
				if err := publish(n); err != nil {
					t.Fatal(err)
				}
				n.Discard()
				holds(t, dir, "new")
			})
			t.Run("overtaken", func(t *testing.T) {
				dir := t.TempDir()
				n := begun(t, dir, false, c)
				os.WriteFile(filepath.Join(dir, "image"), []byte("theirs"), 0o644)
				if err := publish(n); err == nil || !strings.Contains(err.Error(), "meanwhile") {
					t.Errorf("over what came into being: %v", err)
				}
				n.Discard()
				holds(t, dir, "theirs")
			})
			t.Run("killed", func(t *testing.T) { killedWhilePublishing(t, change) })
		})
	}
}

// killedWhilePublishing stops before each rename, does what a guardian does, and looks at what is there.
func killedWhilePublishing(t *testing.T, change func(*sys.Calls)) {
	for _, force := range []bool{false, true} {
		dir := t.TempDir()
		content := ""
		if force {
			content = "old"
			os.WriteFile(filepath.Join(dir, "image"), []byte(content), 0o600)
		}
		c := sys.Kernel()
		change(c)
		n := begun(t, dir, force, c)
		killed := errors.New("killed")
		c.Rename = func(string, string, uint) error { return killed }
		err := publish(n)
		if err == nil {
			continue // there was no step between
		}
		if !errors.Is(err, killed) {
			t.Fatal(err)
		}
		for _, f := range n.Files() {
			os.Remove(f)
		}
		holds(t, dir, content)
	}
}

// TestPublishFails: no name is given to what did not reach the disk.
func TestPublishFails(t *testing.T) {
	for name, change := range fileSystems {
		t.Run(name, func(t *testing.T) {
			c := sys.Kernel()
			change(c)
			dir := t.TempDir()
			n := begun(t, dir, false, c)
			c.Fsync = func(int) error { return unix.EIO }
			err := publish(n)
			if !errors.Is(err, unix.EIO) {
				t.Errorf("it says %v", err)
			}
			n.Discard()
			holds(t, dir, "")
		})
	}
}

// TestBadTargets are paths at which there can be no image.
func TestBadTargets(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	os.WriteFile(path("file"), nil, 0o600)
	os.Symlink("file", path("link"))
	os.Symlink("nothing", path("dangling"))
	unix.Mkfifo(path("fifo"), 0o600)
	before := names(t, dir)
	for name, want := range map[string]string{
		"none/image": "does not exist", "file/image": "not a directory", ".": "is a directory", "link": "not a regular file",
		"dangling": "not a regular file", "fifo": "not a regular file", "file": "exists",
	} {
		n, err := NewTarget(path(name), name != "file", nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if err == nil {
			n.Discard()
		}
	}
	for errno, want := range map[error]string{unix.EACCES: "no permission", unix.EROFS: "read-only", unix.EDQUOT: "quota"} {
		c := sys.Kernel()
		c.Open = func(string, int, uint32) (int, error) { return -1, errno }
		if _, err := NewTarget(path("image"), false, c); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v: it says %v", errno, err)
		}
	}
	if after := names(t, dir); !slices.Equal(before, after) {
		t.Errorf("left are %q", after)
	}
}

// TestLongName publishes under the longest name there is, which leaves no room for a temporary one made of it.
func TestLongName(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("n", 255))
	for range 2 {
		n, err := NewTarget(path, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = publish(n)
		n.Discard()
		if err != nil || len(names(t, dir)) != 1 {
			t.Errorf("%v, %q", err, names(t, dir))
		}
	}
}

// TestKept gives out descriptions of their own to as many as use them at a time, and none where not all could be made.
func TestKept(t *testing.T) {
	target, err := NewTarget(filepath.Join(t.TempDir(), "image"), false, nil)
	testkit.Check(t, err)
	defer target.Discard()
	testkit.Check(t, target.Keep(2, os.O_WRONLY))
	var files []*os.File
	for range 3 {
		f, err := target.Open(os.O_WRONLY)
		testkit.Check(t, err)
		defer f.Close()
		files = append(files, f)
	}
	_, err = files[0].Seek(5, io.SeekStart)
	testkit.Check(t, err)
	for i, want := range []int64{5, 0, 5} {
		if at, err := files[i].Seek(0, io.SeekCurrent); at != want || err != nil {
			t.Errorf("file %d is at %d, not %d, %v", i, at, want, err)
		}
	}
	if err := target.Keep(1, unix.O_DIRECTORY); err == nil || len(target.kept) != 0 {
		t.Errorf("%v, and %d are kept", err, len(target.kept))
	}
}
