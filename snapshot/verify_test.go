// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

func verified(t *testing.T, path string) (*VerifyResult, error) {
	t.Helper()
	return Verify(context.Background(), VerifyOptions{Image: path})
}

func TestVerify(t *testing.T) {
	path := smallImage().sealed(t)
	for _, mode := range []directio.Mode{directio.Auto, directio.Off} {
		r, err := Verify(context.Background(), VerifyOptions{Image: path, Direct: mode})
		if err != nil || !r.OK || !r.Sealed || r.PagesBad != 0 || r.ID == "" {
			t.Fatalf("%+v, %v", r, err)
		}
		if want := opened(t, path).Seal.TotalStored(); r.PagesChecked != want || r.BytesChecked != want*4096 {
			t.Errorf("%d pages, %d bytes were checked of %d pages", r.PagesChecked, r.BytesChecked, want)
		}
	}
}

// TestVerifyNamesPages damages pages and wants exactly these named.
func TestVerifyNamesPages(t *testing.T) {
	path := smallImage().sealed(t)
	image := opened(t, path)
	var want []BadPage
	for _, p := range []struct {
		block int
		page  int64
	}{{0, 0}, {0, 1}, {0, 700}, {0, 701}, {0, 1023}, {1, 31}} {
		b := image.Blocks[p.block]
		at := b.PagesOffset + p.page*4096
		flip(t, path, 8*(at+77)+3)
		if stored, err := image.Bitmap(p.block); err != nil || stored.Get(p.page) {
			want = append(want, BadPage{Block: b.Name, Page: p.page, Offset: at})
		}
	}
	defer func(n int64) { batchPages = n }(batchPages)
	for _, batchPages = range []int64{1 << 24, 1000, 100, 64} {
		r, err := verified(t, path)
		if !errors.Is(err, mappedram.ErrDamaged) || !slices.Equal(r.BadPages, want) || r.PagesBad != int64(len(want)) || r.PagesChecked != image.Seal.TotalStored() {
			t.Errorf("%v\n%v, want\n%v", err, r.BadPages, want)
		}
		if !strings.Contains(err.Error(), want[0].String()) {
			t.Errorf("%v does not name %v", err, want[0])
		}
	}
}

// TestVerifyManyBadPages has more of them than are named.
func TestVerifyManyBadPages(t *testing.T) {
	i := smallImage()
	i.blocks[0].Length = 64 << 20
	i.page = func(block int, page int64) []byte { return make([]byte, 4096) }
	path := i.sealed(t)
	b := opened(t, path).Blocks[0]
	change(t, path, b.PagesOffset, []byte(strings.Repeat("x", int(b.Length))))
	r, err := verified(t, path)
	if !errors.Is(err, mappedram.ErrDamaged) || r.PagesBad != b.Pages() || len(r.BadPages) != MaxBadPages {
		t.Errorf("%v, %d pages of which %d are named, want %d", err, r.PagesBad, len(r.BadPages), b.Pages())
	}
}

// TestVerifyUnreadable has a disk that cannot read some sectors.
func TestVerifyUnreadable(t *testing.T) {
	path := smallImage().sealed(t)
	b := opened(t, path).Blocks[0]
	bad := []int64{b.PagesOffset + 2*4096 + 512, b.PagesOffset + 500*4096}
	undo := directio.Inject(func(c *directio.Calls) {
		pread := c.Pread
		c.Pread = func(fd int, p []byte, off int64) (int, error) {
			for _, at := range bad {
				if off <= at && at < off+int64(len(p)) {
					return 0, unix.EIO
				}
			}
			return pread(fd, p, off)
		}
	})
	defer undo()
	r, err := verified(t, path)
	if !errors.Is(err, mappedram.ErrDamaged) || len(r.BadPages) != 2 || r.BadPages[0].Page != 2 || r.BadPages[1].Page != 500 || r.BadPages[1].Unreadable == "" {
		t.Errorf("%v, %+v", err, r)
	}
	if !strings.Contains(err.Error(), "cannot be read: input/output error") {
		t.Errorf("it says %v", err)
	}
	if want := opened(t, path).Seal.TotalStored(); r.PagesChecked != want {
		t.Errorf("%d of %d pages were checked", r.PagesChecked, want)
	}
}

func TestVerifyUnsealed(t *testing.T) {
	path := smallImage().write(t)
	r, err := verified(t, path)
	if !errors.Is(err, seal.ErrNoSeal) || errors.Is(err, mappedram.ErrImage) || r == nil || r.Sealed || r.OK || len(r.Damage) != 0 {
		t.Errorf("unsealed: %+v, %v", r, err)
	}
	image := opened(t, path)
	for name, at := range map[string]int64{
		"device state": image.SectionsOffset + 4,
		"description":  image.DescriptionOffset,
		// Of 1 page in a word of 64.
		"bitmap": image.Blocks[2].BitmapOffset + 1,
	} {
		c := copied(t, path)
		flip(t, c, 8*at+3)
		if r, err := verified(t, c); !errors.Is(err, mappedram.ErrImage) || r != nil && len(r.Damage) == 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	i := smallImage()
	i.page = func(int, int64) []byte { return nil }
	if _, err := verified(t, i.write(t)); !errors.Is(err, mappedram.ErrImage) {
		t.Errorf("no page is stored: %v", err)
	}
}

func TestSeal(t *testing.T) {
	path := smallImage().write(t)
	before, err := os.ReadFile(path)
	check(t, err)
	r, err := Seal(context.Background(), SealOptions{Image: path})
	check(t, err)
	after, err := os.ReadFile(path)
	check(t, err)
	if string(after[:len(before)]) != string(before) || r.SealBytes != int64(len(after)-len(before)) {
		t.Error("sealing changed what was in the file")
	}
	m := opened(t, path).Seal
	if m.Format != "qemu" || !m.WasRunning || m.MachineType != "pc-i440fx-10.0" || m.Created.IsZero() || r.ID != m.ID.String() {
		t.Errorf("metadata %+v", m.Metadata)
	}
	if r, err := verified(t, path); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Seal(context.Background(), SealOptions{Image: path}); !errors.Is(err, ErrSealed) {
		t.Errorf("again: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(after) {
		t.Error("refusing changed the file")
	}
}

// TestSealInterrupted cuts the sealing off after every number of system calls, and goes on.
func TestSealInterrupted(t *testing.T) {
	i := smallImage()
	i.blocks = i.blocks[1:2] // every attempt is synced, and disks take their time
	unsealed := i.write(t)
	before, err := os.ReadFile(unsealed)
	check(t, err)
	errCut := errors.New("cut")
	for calls := 0; ; calls++ {
		path := copied(t, unsealed)
		left := calls
		take := func() bool { left--; return left >= 0 }
		undo := directio.Inject(func(c *directio.Calls) {
			pwrite, fsync, truncate := c.Pwrite, c.Fsync, c.Ftruncate
			c.Pwrite = func(fd int, p []byte, off int64) (int, error) {
				if !take() {
					return 0, errCut
				}
				return pwrite(fd, p, off)
			}
			c.Fsync = func(fd int) error {
				if !take() {
					return errCut
				}
				return fsync(fd)
			}
			c.Ftruncate = func(fd int, n int64) error {
				if !take() {
					return errCut
				}
				return truncate(fd, n)
			}
		})
		_, err := Seal(context.Background(), SealOptions{Image: path})
		undo()
		got, readErr := os.ReadFile(path)
		check(t, readErr)
		if string(got[:len(before)]) != string(before) {
			t.Fatalf("after %d calls the image itself has changed", calls)
		}
		if err == nil {
			if calls < 6 {
				t.Errorf("sealing took %d calls: not all of them come through the seam", calls)
			}
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("after %d calls: %v", calls, err)
		}
		if _, err := Seal(context.Background(), SealOptions{Image: path}); err != nil && !errors.Is(err, ErrSealed) {
			t.Errorf("after %d calls it cannot be sealed again: %v", calls, err)
		}
		if r, err := verified(t, path); err != nil {
			t.Errorf("after %d calls and another attempt: %+v, %v", calls, r, err)
		}
	}
}

// TestSealFull has the disk full where the seal goes: the image is as it was.
func TestSealFull(t *testing.T) {
	path := smallImage().write(t)
	before, err := os.ReadFile(path)
	check(t, err)
	full := errors.New("full")
	undo := directio.Inject(func(c *directio.Calls) {
		pwrite := c.Pwrite
		c.Pwrite = func(fd int, p []byte, off int64) (int, error) {
			if off > int64(len(before))+1000 {
				return 0, full
			}
			return pwrite(fd, p[:min(len(p), 1000)], off)
		}
	})
	_, err = Seal(context.Background(), SealOptions{Image: path})
	undo()
	if after, readErr := os.ReadFile(path); !errors.Is(err, full) || readErr != nil || string(after) != string(before) {
		t.Errorf("%v, the file has %d bytes, had %d", err, len(after), len(before))
	}
}

func TestSealRefuses(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "text"), []byte("no image\n"), 0o600))
	for path, want := range map[string]string{"text": "not an image", "absent": "there is no image", ".": "not a regular file"} {
		if _, err := Seal(context.Background(), SealOptions{Image: filepath.Join(dir, path)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestSealLeavesOthersBytes (issue 15, point 10) has another process append to the image while its pages are read, or while the seal is
// written: sealing is refused, and what that process wrote is there.
func TestSealLeavesOthersBytes(t *testing.T) {
	for _, when := range []string{"reading", "writing", "the end"} {
		t.Run(when, func(t *testing.T) {
			path := smallImage().write(t)
			before, err := os.ReadFile(path)
			check(t, err)
			others := bytes.Repeat([]byte("not Ramjet's"), 100_000)
			write := sync.OnceFunc(func() {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				check(t, err)
				defer f.Close()
				_, err = f.Write(others)
				check(t, err)
			})
			syncs := 0
			undo := directio.Inject(func(c *directio.Calls) {
				pread, pwrite, fsync := c.Pread, c.Pwrite, c.Fsync
				c.Pread = func(fd int, p []byte, off int64) (int, error) {
					if when == "reading" {
						write()
					}
					return pread(fd, p, off)
				}
				c.Pwrite = func(fd int, p []byte, off int64) (int, error) {
					n, err := pwrite(fd, p, off)
					if when == "writing" {
						write()
						return n, errors.Join(err, unix.EIO)
					}
					return n, err
				}
				c.Fsync = func(fd int) error {
					if syncs++; syncs == 3 && when == "the end" {
						write()
					}
					return fsync(fd)
				}
			})
			defer undo()
			_, err = Seal(context.Background(), SealOptions{Image: path})
			after, errRead := os.ReadFile(path)
			check(t, errRead)
			if err == nil || when != "writing" && !strings.Contains(err.Error(), "somebody writes to it") {
				t.Errorf("it says %v", err)
			}
			if !bytes.HasPrefix(after, before) || !bytes.HasSuffix(after, others) {
				t.Errorf("the file has %d bytes, of which the image is %d, the other process's %d", len(after), len(before), len(others))
			}
		})
	}
}
