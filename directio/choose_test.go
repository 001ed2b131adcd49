// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// withMemory has the machine say this of its memory.
func withMemory(t *testing.T, m Memory) {
	t.Helper()
	old := readMemory
	readMemory = func() Memory { return m }
	t.Cleanup(func() { readMemory = old })
}

var (
	plenty = Memory{Available: 64 << 30}
	scarce = Memory{Available: 1 << 20}
)

func newFile(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mount mounts a file system until the test ends, or skips the test.
func mount(t *testing.T, kind, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		t.Skipf("cannot mount %s here: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func overlay(t *testing.T, over string) string {
	t.Helper()
	var options []string
	for _, d := range []string{"lowerdir", "upperdir", "workdir"} {
		path := filepath.Join(over, d)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		options = append(options, d+"="+path)
	}
	return mount(t, "overlay", strings.Join(options, ","))
}

// onFUSE mounts a directory over FUSE. Its server opens its files as it is told to.
func onFUSE(t *testing.T) string {
	t.Helper()
	root, err := fs.NewLoopbackRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	server, err := fs.Mount(dir, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "directio"}})
	if err != nil {
		t.Skipf("cannot mount a FUSE file system: %v", err)
	}
	t.Cleanup(func() { server.Unmount() })
	return dir
}

// onDisk skips the test where the temporary directory is on something else than a disk that takes direct I/O.
func onDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	f, err := Path(newFile(t, dir)).Open(os.O_RDWR | unix.O_DIRECT)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if a, known := ProbeAlignment(f); !known || a.Offset == 0 {
		t.Skip("the temporary directory does not take direct I/O")
	}
	return dir
}

// TestChooseByFileSystem has Auto decide for files on real file systems, for writing, with memory enough and without.
func TestChooseByFileSystem(t *testing.T) {
	for _, c := range []struct {
		name     string
		dir      func(*testing.T) string
		plenty   Decision
		scarce   Decision
		why      string
		whyShort string
	}{
		{"disk", onDisk, Decision{Direct: true, Drop: true}, Decision{Direct: true, Drop: true}, "the file takes", "the file takes"},
		{"tmpfs", func(t *testing.T) string { return mount(t, "tmpfs", "size=4m") }, Decision{}, Decision{}, "in memory", "in memory"},
		{"overlay over a disk", func(t *testing.T) string { return overlay(t, onDisk(t)) },
			Decision{Direct: true, Drop: true}, Decision{Direct: true, Drop: true}, "below the overlay takes", "below the overlay takes"},
		{"overlay over tmpfs", func(t *testing.T) string { return overlay(t, mount(t, "tmpfs", "size=4m")) },
			Decision{}, Decision{Drop: true}, "may be memory", "memory is short"},
		{"FUSE", onFUSE, Decision{}, Decision{Direct: true, Drop: true}, "FUSE", "a page was tried"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := newFile(t, c.dir(t))
			for _, m := range []struct {
				Memory
				want Decision
				why  string
			}{{plenty, c.plenty, c.why}, {scarce, c.scarce, c.whyShort}} {
				withMemory(t, m.Memory)
				got, err := Chooser{Mode: Auto, Bytes: 1 << 30}.Choose(Path(path), os.O_WRONLY)
				t.Logf("%v: %s", got, got.Why)
				if err != nil || got.Direct != m.want.Direct || got.Drop != m.want.Drop || got.Cached || !strings.Contains(got.Why, m.why) {
					t.Errorf("with %d MiB available: %+v, %v, want %+v because %q", m.Available>>20, got, err, m.want, m.why)
				}
				if st, err := os.Stat(path); err != nil || st.Size() != 0 {
					t.Errorf("choosing left %v in the file, %v", st, err)
				}
			}
			off, err := Chooser{Mode: Off}.Choose(Path(path), os.O_WRONLY)
			if err != nil || off.Direct || off.Drop {
				t.Errorf("off: %+v, %v", off, err)
			}
		})
	}
}

// TestChooseTriesFUSE: where the server does not take a direct write, or there is something in the file that it would overwrite, a short memory does
// not change the decision.
func TestChooseTriesFUSE(t *testing.T) {
	path := newFile(t, onFUSE(t))
	withMemory(t, scarce)
	refusing := sys.Kernel()
	refusing.Pwrite = func(int, []byte, int64) (int, error) { return -1, unix.EINVAL }
	got, err := Chooser{Bytes: 1 << 30, Calls: refusing}.Choose(Path(path), os.O_WRONLY)
	if err != nil || got.Direct || !got.Drop {
		t.Errorf("a server that refuses: %+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("something"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = Chooser{Bytes: 1 << 30}.Choose(Path(path), os.O_RDWR)
	if err != nil || got.Direct {
		t.Errorf("a file that is not empty: %+v, %v", got, err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "something" {
		t.Errorf("choosing changed the file to %q, %v", b, err)
	}
	got, err = Chooser{Bytes: 1 << 30}.Choose(Path(path), os.O_RDONLY)
	if err != nil || !got.Direct || !got.Cached || got.Drop {
		t.Errorf("for reading: %+v, %v", got, err)
	}
}

// TestChooseByResidency: what is cached is read from the page cache, and the decision says how much that is.
func TestChooseByResidency(t *testing.T) {
	path := newFile(t, onDisk(t))
	if err := os.WriteFile(path, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Chooser{}.Choose(Path(path), os.O_RDONLY)
	if err != nil || !got.Direct || !got.Cached || !strings.Contains(got.Why, "3 MiB of it are in the page cache") {
		t.Errorf("cached: %+v, %v", got, err)
	}
	if err := evicted(path); err != nil {
		t.Skip(err)
	}
	got, err = Chooser{}.Choose(Path(path), os.O_RDONLY)
	if err != nil || !got.Direct || !got.Cached || strings.Contains(got.Why, "page cache") {
		t.Errorf("not cached: %+v, %v", got, err)
	}
	got, err = Chooser{Mode: On}.Choose(Path(path), os.O_RDONLY)
	if err != nil || !got.Direct || got.Cached {
		t.Errorf("on: %+v, %v", got, err)
	}
}

func evicted(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// TestMemory reads the machine's and the cgroups' memory from copies of their files.
func TestMemory(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want Memory) {
		t.Helper()
		if got := memoryIn(root); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	expect(Memory{})
	put("proc/meminfo", "MemTotal:       24684092 kB\nMemFree: 1 kB\nMemAvailable:   1048576 kB\n")
	expect(Memory{Available: 1 << 30})
	put("proc/pressure/memory", "some avg10=12.50 avg60=3.00 avg300=0.00 total=7\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=3\n")
	put("proc/self/cgroup", "0::/pod/a\n")
	put("sys/fs/cgroup/pod/a/memory.max", "max\n")
	put("sys/fs/cgroup/pod/memory.max", "104857600\n")
	put("sys/fs/cgroup/pod/memory.current", "94371840\n")
	put("sys/fs/cgroup/pod/memory.stat", "anon 1\ninactive_file 1048576\n")
	expect(Memory{Available: 11 << 20, Waiting: 12.5})
	put("sys/fs/cgroup/pod/memory.current", "204857600\n")
	expect(Memory{Available: 1, Waiting: 12.5})
	if s := (Memory{Available: 1 << 30, Waiting: 12.5}).shortage(1); !strings.Contains(s, "wait") {
		t.Errorf("under pressure: %q", s)
	}
	if s := (Memory{}).shortage(1 << 40); s != "" {
		t.Errorf("nobody knows how much memory there is: %q", s)
	}
}
