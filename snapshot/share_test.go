// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// handmade writes a sealed image of two blocks, of which pages[block][page] says with what bytes each page is filled; 0 is a
// hole, and a page that is not in it is not stored.
func handmade(t *testing.T, path string, base *seal.Base, pages [2]map[int64]byte) seal.ID {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	blocks := []mappedram.Block{{Name: "ram", Length: 3 << 20}, {Name: "rom", Length: 256 << 10}}
	l, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "pc", Capabilities: []string{"mapped-ram"}}, blocks)
	check(t, err)
	check(t, f.Truncate(l.RAMEnd))
	s, err := scratch(filepath.Dir(path))
	check(t, err)
	c := image.Writer{Layout: l, Sums: migration.NewSums(s, l.Blocks)}
	defer c.Sums.Close()
	for i, b := range l.Blocks {
		c.Stored = append(c.Stored, mappedram.NewBitmap(b.Pages()))
		for n, v := range pages[i] {
			p := bytes.Repeat([]byte{v}, mappedram.PageSize)
			c.Stored[i].Set(n)
			check(t, c.Sums.Add(i, n, p))
			if v != 0 {
				_, err = f.WriteAt(p, b.PagesOffset+n*mappedram.PageSize)
				check(t, err)
			}
		}
	}
	w, err := directio.NewFile(f)
	check(t, err)
	c.To = w
	id, err := c.Sealed(&seal.Metadata{Format: "ramjet", Base: base, Blocks: image.Blocks(l.Blocks, c.Stored)})
	check(t, err)
	return id
}

// reflinking mounts a small file system that shares extents, if this machine has one and lets us.
func reflinking(t *testing.T) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil || os.Getuid() != 0 {
		t.Skip("takes root and mkfs.xfs")
	}
	dir := t.TempDir()
	device, mnt := filepath.Join(dir, "device"), filepath.Join(dir, "mnt")
	check(t, os.WriteFile(device, nil, 0o600))
	check(t, os.Truncate(device, 320<<20))
	check(t, os.Mkdir(mnt, 0o700))
	for _, c := range []*exec.Cmd{exec.Command(mkfs, "-q", "-m", "reflink=1", device), exec.Command("mount", "-o", "loop", device, mnt)} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Skipf("no XFS here: %v: %s", err, out)
		}
	}
	t.Cleanup(func() { exec.Command("umount", mnt).Run() })
	return mnt
}

// TestFlat makes a whole image of a base and a diff, on a file system that shares pages and on one that may not.
func TestFlat(t *testing.T) {
	for name, dir := range map[string]func(*testing.T) string{
		"copied": func(t *testing.T) string { return t.TempDir() }, "shared": reflinking,
	} {
		t.Run(name, func(t *testing.T) {
			dir := dir(t)
			base, diff, out := filepath.Join(dir, "base"), filepath.Join(dir, "diff"), filepath.Join(dir, "out")
			below := map[int64]byte{}
			for n := range int64(600) {
				below[n] = byte(1 + n%200)
			}
			id := handmade(t, base, nil, [2]map[int64]byte{below, {0: 7, 63: 8}})
			over := map[int64]byte{3: 0, 4: 0, 5: 201, 100: 202, 599: 0, 767: 203}
			handmade(t, diff, &seal.Base{ID: id, Path: base}, [2]map[int64]byte{over, {63: 0}})
			for n, v := range over {
				below[n] = v
			}
			used := blocksUsed(t, dir)
			_, err := Export(context.Background(), ExportOptions{Image: diff, Out: out, Format: ExportFlat})
			check(t, err)
			if grew := blocksUsed(t, dir) - used; name == "shared" && grew > 1<<20 {
				t.Errorf("an image that shares its pages takes %d bytes", grew)
			}
			_, err = Verify(context.Background(), VerifyOptions{Image: out})
			check(t, err)
			m := opened(t, out)
			if m.baseID() != nil {
				t.Error("the image has a base")
			}
			for i, want := range []map[int64]byte{below, {0: 7}} {
				stored, err := m.Bitmap(i)
				check(t, err)
				for n := range m.Blocks[i].Pages() {
					p := make([]byte, mappedram.PageSize)
					_, err := m.file.ReadAt(p, m.Blocks[i].PagesOffset+n*mappedram.PageSize)
					check(t, err)
					if v := want[n]; p[0] != v || p[len(p)-1] != v || stored.Get(n) != (v != 0) {
						t.Fatalf("block %d: page %d is filled with %d, stored: %v; want %d", i, n, p[0], stored.Get(n), v)
					}
				}
			}
		})
	}
}

func blocksUsed(t *testing.T, dir string) int64 {
	t.Helper()
	unix.Sync()
	var st unix.Statfs_t
	check(t, unix.Statfs(dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// TestSharingThatEnds (issue 16, point 10) has the file system refuse to share pages after the first: all are moved then.
func TestSharingThatEnds(t *testing.T) {
	for _, after := range []int{0, 1, 2} {
		dir := t.TempDir()
		path, out := filepath.Join(dir, "image"), filepath.Join(dir, "out")
		handmade(t, path, nil, [2]map[int64]byte{{0: 1, 5: 2, 6: 3, 700: 4}, {0: 5}})
		calls := 0
		real := ficlonerange
		ficlonerange = func(fd int, r *unix.FileCloneRange) error {
			if calls++; calls > after {
				return unix.EINVAL
			}
			b := make([]byte, r.Src_length)
			if _, err := unix.Pread(int(r.Src_fd), b, int64(r.Src_offset)); err != nil {
				return err
			}
			_, err := unix.Pwrite(fd, b, int64(r.Dest_offset))
			return err
		}
		_, err := Export(context.Background(), ExportOptions{Image: path, Out: out, Format: ExportFlat})
		ficlonerange = real
		check(t, err)
		if calls != after+1 {
			t.Errorf("%d calls, want %d", calls, after+1)
		}
		_, err = verified(t, out)
		check(t, err)
		d, err := Diff(context.Background(), DiffOptions{A: path, B: out})
		check(t, err)
		if !d.Same {
			t.Errorf("after %d: %+v", after, d)
		}
	}
}
