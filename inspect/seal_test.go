// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/internal/testkit"
)

func TestSeal(t *testing.T) {
	path := testkit.SmallImage().Write(t)
	before, err := os.ReadFile(path)
	testkit.Check(t, err)
	r, err := Seal(context.Background(), SealOptions{Image: path})
	testkit.Check(t, err)
	after, err := os.ReadFile(path)
	testkit.Check(t, err)
	if string(after[:len(before)]) != string(before) || r.SealBytes != int64(len(after)-len(before)) {
		t.Error("sealing changed what was in the file")
	}
	m := opened(t, path).Seal
	if m.Format != "qemu" || !m.WasRunning || m.MachineType != "pc-i440fx-10.0" || m.Created.IsZero() || r.ID != m.ID.String() {
		t.Errorf("metadata %+v", m.Metadata)
	}
	if r, err := image.Verify(context.Background(), image.VerifyOptions{Image: path}); err != nil {
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
	i := testkit.SmallImage()
	i.Blocks = i.Blocks[1:2] // every attempt is synced, and disks take their time
	unsealed := i.Write(t)
	before, err := os.ReadFile(unsealed)
	testkit.Check(t, err)
	errCut := errors.New("cut")
	for calls := 0; ; calls++ {
		path := testkit.Copy(t, unsealed)
		left := calls
		take := func() bool { left--; return left >= 0 }
		c := sys.Kernel()
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
		_, err := Seal(context.Background(), SealOptions{Image: path, Calls: c})
		got, readErr := os.ReadFile(path)
		testkit.Check(t, readErr)
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
		if r, err := image.Verify(context.Background(), image.VerifyOptions{Image: path}); err != nil {
			t.Errorf("after %d calls and another attempt: %+v, %v", calls, r, err)
		}
	}
}

// TestSealFull has the disk full where the seal goes: the image is as it was.
func TestSealFull(t *testing.T) {
	path := testkit.SmallImage().Write(t)
	before, err := os.ReadFile(path)
	testkit.Check(t, err)
	full := errors.New("full")
	c := sys.Kernel()
	pwrite := c.Pwrite
	c.Pwrite = func(fd int, p []byte, off int64) (int, error) {
		if off > int64(len(before))+1000 {
			return 0, full
		}
		return pwrite(fd, p[:min(len(p), 1000)], off)
	}
	_, err = Seal(context.Background(), SealOptions{Image: path, Calls: c})
	if after, readErr := os.ReadFile(path); !errors.Is(err, full) || readErr != nil || string(after) != string(before) {
		t.Errorf("%v, the file has %d bytes, had %d", err, len(after), len(before))
	}
}

func TestSealRefuses(t *testing.T) {
	dir := t.TempDir()
	testkit.Check(t, os.WriteFile(filepath.Join(dir, "text"), []byte("no image\n"), 0o600))
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
			path := testkit.SmallImage().Write(t)
			before, err := os.ReadFile(path)
			testkit.Check(t, err)
			others := bytes.Repeat([]byte("not Ramjet's"), 100_000)
			write := sync.OnceFunc(func() {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				testkit.Check(t, err)
				defer f.Close()
				_, err = f.Write(others)
				testkit.Check(t, err)
			})
			syncs := 0
			c := sys.Kernel()
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
			_, err = Seal(context.Background(), SealOptions{Image: path, Calls: c})
			after, errRead := os.ReadFile(path)
			testkit.Check(t, errRead)
			if err == nil || when != "writing" && !strings.Contains(err.Error(), "somebody writes to it") {
				t.Errorf("it says %v", err)
			}
			if !bytes.HasPrefix(after, before) || !bytes.HasSuffix(after, others) {
				t.Errorf("the file has %d bytes, of which the image is %d, the other process's %d", len(after), len(before), len(others))
			}
		})
	}
}
