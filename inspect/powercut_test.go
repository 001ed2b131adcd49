// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// step is what a program did to a file: wrote, set its length, or made what it had done durable.
type step struct {
	kind string // "write", "truncate", "sync"
	at   int64  // or the length
	data []byte
}

// TestSealPowerCut cuts the power at every step of a sealing and has what was not synced reach the disk or not, in any
// choice of pages: the image is the old one, or sealed and right, or refused; and it can be sealed again.
func TestSealPowerCut(t *testing.T) {
	i := testkit.SmallImage()
	i.Blocks = i.Blocks[1:2]
	i.Blocks[0].Length = 4 << 20 // two pages of sums and more
	page, full := i.Page, bytes.Repeat([]byte{7}, mappedram.PageSize)
	i.Page = func(block int, p int64) []byte {
		if p%16 == 0 {
			return nil
		}
		if p > 64 {
			return full
		}
		return page(block, p)
	}
	path := i.Write(t)
	before, err := os.ReadFile(path)
	testkit.Check(t, err)
	steps := recorded(t, path, func(c *sys.Calls) {
		_, err := Seal(context.Background(), SealOptions{Image: path, Calls: c})
		testkit.Check(t, err)
	})
	if n := len(steps); n < 5 || steps[n-1].kind != "sync" || steps[n-2].kind != "write" || len(steps[n-2].data) != 128 || steps[n-3].kind != "sync" {
		t.Fatalf("the footer is not written between two syncs: %d steps", n)
	}
	random := rand.New(rand.NewPCG(5, 6))
	outcomes := map[string]int{}
	dir := t.TempDir()
	for cut := range len(steps) + 1 {
		for range 20 {
			file := replay(before, steps[:cut], random)
			path := filepath.Join(dir, "cut")
			testkit.Check(t, os.WriteFile(path, file, 0o600))
			outcomes[afterCut(t, path, before, cut)]++
		}
	}
	t.Logf("%d steps: %v", len(steps), outcomes)
	if len(outcomes) != 3 {
		t.Error("not everything that can happen did")
	}
}

// afterCut says what a power cut left, and that it is one of the things that it may leave.
func afterCut(t *testing.T, path string, before []byte, cut int) string {
	t.Helper()
	r, err := image.Verify(context.Background(), image.VerifyOptions{Image: path})
	outcome := ""
	switch {
	case err == nil:
		return "sealed"
	case r != nil && !r.Sealed && len(r.Damage) == 0:
		outcome = "as before"
	case errors.Is(err, mappedram.ErrIncomplete):
		outcome = "refused"
	default:
		t.Fatalf("cut at step %d: %+v, %v", cut, r, err)
	}
	if _, err := Seal(context.Background(), SealOptions{Image: path}); err != nil {
		t.Fatalf("cut at step %d, %s: it cannot be sealed again: %v", cut, outcome, err)
	}
	if r, err := image.Verify(context.Background(), image.VerifyOptions{Image: path}); err != nil {
		t.Fatalf("cut at step %d, %s, sealed again: %+v, %v", cut, outcome, r, err)
	}
	after, err := os.ReadFile(path)
	testkit.Check(t, err)
	if !bytes.Equal(after[:len(before)], before) {
		t.Fatalf("cut at step %d, %s: the image itself has changed", cut, outcome)
	}
	return outcome
}

// recorded returns what f does to a file by the calls that it is given.
func recorded(t *testing.T, path string, f func(*sys.Calls)) (steps []step) {
	var ours os.FileInfo
	ours, err := os.Stat(path)
	testkit.Check(t, err)
	is := func(fd int) bool {
		st, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d", fd))
		return err == nil && os.SameFile(st, ours)
	}
	c := sys.Kernel()
	pwrite, fsync, truncate := c.Pwrite, c.Fsync, c.Ftruncate
	c.Pwrite = func(fd int, p []byte, off int64) (int, error) {
		if is(fd) {
			steps = append(steps, step{"write", off, bytes.Clone(p)})
		}
		return pwrite(fd, p, off)
	}
	c.Fsync = func(fd int) error {
		if is(fd) {
			steps = append(steps, step{kind: "sync"})
		}
		return fsync(fd)
	}
	c.Ftruncate = func(fd int, n int64) error {
		if is(fd) {
			steps = append(steps, step{kind: "truncate", at: n})
		}
		return truncate(fd, n)
	}
	f(c)
	return steps
}

// replay is what is on the disk if the power is cut behind these steps: everything before the last sync; of each write
// behind it the pages in some choice, and the length that one of the steps had given the file.
func replay(before []byte, steps []step, random *rand.Rand) []byte {
	file := bytes.Clone(before)
	durable := 0
	for i, s := range steps {
		if s.kind == "sync" {
			durable = i
		}
	}
	set := func(n int64) {
		if n <= int64(len(file)) {
			file = file[:n]
		} else {
			file = append(file, make([]byte, n-int64(len(file)))...)
		}
	}
	for i, s := range steps {
		pending := i > durable
		if s.kind == "sync" || pending && random.IntN(3) == 0 {
			continue
		}
		if s.kind == "truncate" {
			set(s.at)
			continue
		}
		if end := s.at + int64(len(s.data)); end > int64(len(file)) {
			set(end)
		}
		// A file system writes pages from the first on; how far it came is what a power cut decides.
		n := len(s.data)
		if pending {
			n = min(n, random.IntN(n/4096+2)*4096)
		}
		copy(file[s.at:], s.data[:n])
	}
	return file
}
