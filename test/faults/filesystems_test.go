// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/save"
)

// TestFileSystems saves to file systems that fail. They are real ones, or FUSE's.
func TestFileSystems(t *testing.T) {
	for _, backend := range []string{"memfd", "ram"} {
		t.Run(backend, func(t *testing.T) {
			m := newMachine(t, backend)
			t.Run("FUSE", func(t *testing.T) { onFUSE(t, m) })
			t.Run("full ext4", func(t *testing.T) { fullExt4(t, m) })
			t.Run("file size limit", func(t *testing.T) { fileSizeLimit(t, m) })
			m.unharmed(t)
		})
	}
}

// onFUSE is about a file system that has no files without names, and then about its failures.
func onFUSE(t *testing.T, m *machine) {
	t.Run("works", func(t *testing.T) {
		p := placeIn(fuseDisk(t, &rules{}))
		for range 2 { // the second replaces the first
			r, err := m.save(p)(t.Context(), nil)
			do(t, err)
			p.files(t)
			if !p.what(t) {
				t.Error("there is no new image")
			}
			p.old = r.ID
		}
		if _, err := save.Save(t.Context(), save.Options{Image: p.image, Socket: m.socket}); err == nil || !strings.Contains(err.Error(), "--force") {
			t.Errorf("over an existing image: %v", err)
		}
		p.files(t)
	})
	r := &rules{}
	_, err := m.save(placeIn(fuseDisk(t, r)))(t.Context(), nil)
	do(t, err)
	// In the seal's footer. The end itself is not at the same place in each image: times are written with as many digits as they have.
	last := r.written.Load() - 20
	for _, c := range []struct {
		name string
		*rules
		want error
	}{
		{"EIO at the first byte", &rules{writeFails: syscall.EIO}, unix.EIO},
		{"EIO in the pages", &rules{writeFails: syscall.EIO, failAt: 1 << 20}, unix.EIO},
		{"EIO in the last bytes", &rules{writeFails: syscall.EIO, failAt: last}, unix.EIO},
		{"full", &rules{writeFails: syscall.ENOSPC, failAt: 1 << 20}, unix.ENOSPC},
		{"no quota", &rules{writeFails: syscall.EDQUOT, failAt: 2 << 20}, unix.EDQUOT},
		{"read-only at once", &rules{writeFails: syscall.EROFS, failAt: 2 << 20}, unix.EROFS},
		{"fsync fails", &rules{fsync: syscall.EIO}, unix.EIO},
		{"rename fails", &rules{rename: syscall.EACCES}, unix.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rules{}
			p := placeIn(fuseDisk(t, r))
			for _, old := range []bool{false, true} {
				if old {
					r.writeFails, r.fsync, r.rename = 0, 0, 0
					saved, err := m.save(p)(t.Context(), nil)
					do(t, err)
					p.old = saved.ID
					r.written.Store(0)
				}
				r.writeFails, r.failAt, r.fsync, r.rename = c.writeFails, c.failAt, c.fsync, c.rename
				_, err := m.save(p)(t.Context(), nil)
				failed(t, m, p, err, c.want)
			}
		})
	}
}

// failed checks what a failed save leaves.
func failed(t *testing.T, m *machine, p *place, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("the save says %v, want %v", err, want)
		return
	}
	oneLine(t, err)
	m.runs()
	m.clean()
	p.files(t)
	if p.what(t) {
		t.Error("there is a new image")
	}
}

func placeIn(dir string) *place { return &place{dir: dir, image: filepath.Join(dir, "image")} }

// fullExt4 fills real disks of several sizes up.
func fullExt4(t *testing.T, m *machine) {
	full := 0
	for _, size := range []int64{1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20, 16 << 20} {
		p := placeIn(ext4Disk(t, size))
		do(t, os.RemoveAll(filepath.Join(p.dir, "lost+found")))
		_, err := m.save(p)(t.Context(), nil)
		if err == nil {
			if !p.what(t) {
				t.Error("there is no image")
			}
			p.files(t)
			continue
		}
		full++
		failed(t, m, p, err, unix.ENOSPC)
		if !strings.Contains(err.Error(), "make room in "+p.dir) {
			t.Errorf("it says %v", err)
		}
	}
	if full == 0 || full == 6 {
		t.Errorf("%d of 6 disks were full", full)
	}
}

// ext4Disk mounts a new file system of that many bytes.
func ext4Disk(t *testing.T, size int64) (dir string) {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	do(t, os.WriteFile(disk, nil, 0o600))
	do(t, os.Truncate(disk, size))
	dir = t.TempDir()
	for _, c := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-O", "^has_journal,^resize_inode", "-m", "0", disk},
		{"mount", "-o", "loop", disk, dir},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("cannot make an ext4: %s: %v: %s", c[0], err, bytes.TrimSpace(out))
		}
	}
	t.Cleanup(func() { do(t, unix.Unmount(dir, 0)) })
	return dir
}

// fileSizeLimit is RLIMIT_FSIZE, in this process: the signal that comes with it would end a program that is not written
// in Go.
func fileSizeLimit(t *testing.T, m *machine) {
	var old unix.Rlimit
	do(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	defer unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
	for _, limit := range []uint64{1 << 20, 8 << 20, 20 << 20} {
		p := newPlace(t, m, true)
		do(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: old.Max}))
		_, err := m.save(p)(t.Context(), nil)
		do(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &old))
		failed(t, m, p, err, unix.EFBIG)
	}
}
