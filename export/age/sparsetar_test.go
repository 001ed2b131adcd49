// SPDX-License-Identifier: Apache-2.0

package age

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/test/allocs"
)

// TestSparseTar has Go's own reader read what is written, with lists that end at a block's end and elsewhere.
func TestSparseTar(t *testing.T) {
	t.Parallel()
	for _, many := range []int{0, 1, 2, 20, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 1000, maxExtents} {
		var want bytes.Buffer
		var extents []extent
		for k := range many {
			extents = append(extents, extent{int64(k * 100), int64(1 + k%100)})
		}
		size := int64(many*100 + 77)
		want.Write(make([]byte, size))
		for k, x := range extents {
			copy(want.Bytes()[x.off:x.off+x.n], bytes.Repeat([]byte{byte(1 + k%255)}, 100))
		}
		var b bytes.Buffer
		testkit.Check(t, sparseTar(&b, "näme\n", size, extents, func(x extent) error {
			b.Write(want.Bytes()[x.off : x.off+x.n])
			return nil
		}))
		if b.Len()%tarBlock != 0 {
			t.Errorf("%d extents: %d bytes", many, b.Len())
		}
		ours := bytes.NewReader(b.Bytes())
		gotSize, got, err := sparseHeader(ours)
		if err != nil || gotSize != size || len(got) != many {
			t.Fatalf("%d extents: %d extents of %d bytes, %v", many, len(got), gotSize, err)
		}
		for k, x := range got {
			p := make([]byte, x.n)
			_, err := io.ReadFull(ours, p)
			if err != nil || x != extents[k] || !bytes.Equal(p, want.Bytes()[x.off:x.off+x.n]) {
				t.Fatalf("%d extents: %d is %v, %v", many, k, x, err)
			}
		}
		theirs := tar.NewReader(&b)
		h, err := theirs.Next()
		testkit.Check(t, err)
		content, err := io.ReadAll(theirs)
		if err != nil || h.Name != "näme\n" || h.Size != size || !bytes.Equal(content, want.Bytes()) {
			t.Fatalf("%d extents: archive/tar reads %+v, %v", many, h, err)
		}
		if _, err := theirs.Next(); err != io.EOF {
			t.Errorf("%d extents: at the end: %v", many, err)
		}
	}
}

// TestSparseTarGNU has GNU tar make the file again, as docs/image-format.md says.
func TestSparseTarGNU(t *testing.T) {
	t.Parallel()
	if out, _ := exec.Command("tar", "--version").Output(); !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("no GNU tar here")
	}
	path := filepath.Join(t.TempDir(), "vm1.img")
	testkit.Check(t, os.WriteFile(path, bytes.Repeat([]byte("data"), 5000), 0o600))
	testkit.Check(t, os.Truncate(path, 64<<20))
	testkit.Change(t, path, 32<<20, []byte("more"))
	f, err := os.Open(path)
	testkit.Check(t, err)
	defer f.Close()
	extents, err := dataExtents(f, 64<<20)
	testkit.Check(t, err)
	var b bytes.Buffer
	testkit.Check(t, sparseTar(&b, "vm1.img", 64<<20, extents, func(x extent) error {
		_, err := io.Copy(&b, io.NewSectionReader(f, x.off, x.n))
		return err
	}))
	dir := t.TempDir()
	c := exec.Command("tar", "-xSC", dir)
	c.Stdin = &b
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := os.ReadFile(path)
	testkit.Check(t, err)
	got, err := os.ReadFile(filepath.Join(dir, "vm1.img"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("tar makes another file, %v", err)
	}
	var st unix.Stat_t
	testkit.Check(t, unix.Stat(filepath.Join(dir, "vm1.img"), &st))
	if n := st.Blocks * 512; n > 1<<20 {
		t.Errorf("tar's file takes %d bytes", n)
	}
}

// FuzzSparseHeader gives out only extents that rise and lie in the file.
func FuzzSparseHeader(f *testing.F) {
	var b bytes.Buffer
	testkit.Check(f, sparseTar(&b, "x", 8192, []extent{{0, 4096}, {4100, 5}}, func(x extent) error { _, err := b.Write(make([]byte, x.n)); return err }))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		size, extents, err := sparseHeader(bytes.NewReader(in))
		if err != nil {
			return
		}
		end := int64(0)
		for _, x := range extents {
			if x.off < end || x.n <= 0 || x.off+x.n < x.off || x.off+x.n > size {
				t.Fatalf("%v of %d bytes", extents, size)
			}
			end = x.off + x.n
		}
	})
}
