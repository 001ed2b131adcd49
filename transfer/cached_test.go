// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// TestLoadCached has half of an image in the page cache, and sees that it is this half that a direct load takes from
// there.
func TestLoadCached(t *testing.T) {
	const size = 4 * stretch
	want := make([]byte, size)
	rand.NewChaCha8([32]byte{3}).Read(want)
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if io, err := (directio.Chooser{}).Choose(directio.Path(path), os.O_RDONLY); err != nil || !io.Direct {
		t.Skipf("no direct I/O here: %v %v", io.Why, err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	evict := func(off, n int64) { unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED) }
	evict(0, 0)
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // no readahead
	if _, err := f.ReadAt(make([]byte, size/2), 0); err != nil {
		t.Fatal(err)
	}
	for _, cached := range []bool{false, true} {
		got := make([]byte, size)
		all := mappedram.NewBitmap(size / 4096)
		all.SetRange(0, size/4096)
		l := &Load{
			Blocks: []LoadBlock{{Block: mappedram.Block{Name: "ram", Length: size, PageSize: 4096}, Stored: all}},
			Image:  directio.Path(path),
			Params: Params{Direct: true, Cached: cached},
			Sink: func(_ int, first int64, p []byte) error {
				copy(got[first*4096:], p)
				return nil
			},
		}
		if err := l.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("cached %v: the wrong bytes", cached)
		}
		expect := int64(0)
		// Usually two of the four; the kernel may take a page away at any time.
		for at := int64(0); cached && at < size; at += stretch {
			if directio.Cached(f, at, stretch) {
				expect += stretch
			}
		}
		if n := l.Progress.Cached.Load(); n != expect {
			t.Errorf("cached %v: %d bytes from the page cache, want %d", cached, n, expect)
		}
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.BTRFS_SUPER_MAGIC {
		return // which reads through the page cache what it has sums of, direct or not
	}
	if n, err := directio.Resident(f, 0, 0); err != nil || n > size/2 {
		t.Errorf("%d bytes are cached afterwards, %v; want %d", n, err, size/2)
	}
}
