// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// reflinking mounts a small file system that shares extents, if this machine has one and lets us.
func reflinking(t *testing.T) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil || os.Getuid() != 0 {
		t.Skip("takes root and mkfs.xfs")
	}
	dir := t.TempDir()
	device, mnt := filepath.Join(dir, "device"), filepath.Join(dir, "mnt")
	testkit.Check(t, os.WriteFile(device, nil, 0o600))
	testkit.Check(t, os.Truncate(device, 320<<20))
	testkit.Check(t, os.Mkdir(mnt, 0o700))
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
			id := testkit.Handmade(t, base, nil, [2]map[int64]byte{below, {0: 7, 63: 8}})
			over := map[int64]byte{3: 0, 4: 0, 5: 201, 100: 202, 599: 0, 767: 203}
			testkit.Handmade(t, diff, &seal.Base{ID: id, Path: base}, [2]map[int64]byte{over, {63: 0}})
			for n, v := range over {
				below[n] = v
			}
			used := blocksUsed(t, dir)
			_, err := Export(context.Background(), Options{Image: diff, Out: out, Format: Flat})
			testkit.Check(t, err)
			if grew := blocksUsed(t, dir) - used; name == "shared" && grew > 1<<20 {
				t.Errorf("an image that shares its pages takes %d bytes", grew)
			}
			_, err = image.Verify(context.Background(), image.VerifyOptions{Image: out})
			testkit.Check(t, err)
			m := opened(t, out)
			if m.BaseID() != nil {
				t.Error("the image has a base")
			}
			for i, want := range []map[int64]byte{below, {0: 7}} {
				stored, err := m.Bitmap(i)
				testkit.Check(t, err)
				for n := range m.Blocks[i].Pages() {
					p := make([]byte, mappedram.PageSize)
					_, err := m.Descriptor.ReadAt(p, m.Blocks[i].PagesOffset+n*mappedram.PageSize)
					testkit.Check(t, err)
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
	testkit.Check(t, unix.Statfs(dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// TestSharingThatEnds (issue 16, point 10) has the file system refuse to share pages after the first: all are moved then.
func TestSharingThatEnds(t *testing.T) {
	for _, after := range []int{0, 1, 2} {
		dir := t.TempDir()
		path, out := filepath.Join(dir, "image"), filepath.Join(dir, "out")
		testkit.Handmade(t, path, nil, [2]map[int64]byte{{0: 1, 5: 2, 6: 3, 700: 4}, {0: 5}})
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
		_, err := Export(context.Background(), Options{Image: path, Out: out, Format: Flat})
		ficlonerange = real
		testkit.Check(t, err)
		if calls != after+1 {
			t.Errorf("%d calls, want %d", calls, after+1)
		}
		_, err = image.Verify(context.Background(), image.VerifyOptions{Image: out})
		testkit.Check(t, err)
		checkSame(t, path, out)
	}
}
