// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestPrefetch restores an image that is not in the page cache, and looks whether it is there then.
func TestPrefetch(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "256M", Fill: 100})
	image := filepath.Join(directory(t), "image")
	saved := saveVM(t, v, image)
	v.Kill()
	evict := func() {
		t.Helper()
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.Sync()
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	evict()
	if n, ok := cached(t, image); !ok {
		t.Skip("this kernel does not tell what is in the page cache")
	} else if n > saved.PagesStored/10 {
		t.Skipf("%d pages stay in the page cache", n)
	}

	off, _ := restoreVM(t, v, image, "--prefetch", "off")
	time.Sleep(300 * time.Millisecond)
	if n, _ := cached(t, image); n > saved.PagesStored*3/4 {
		t.Errorf("without prefetch %d of %d pages are in the page cache", n, saved.PagesStored)
	}
	diff := image + ".diff"
	saveVM(t, off, diff, "--base", image) // knows what its VM needed
	off.Kill()

	evict()
	waited, r := restoreVM(t, v, image, "--prefetch", "wait")
	if n, _ := cached(t, image); n < saved.PagesStored || r.ResidentSeconds <= r.RunningSeconds {
		t.Errorf("%d of %d pages are in the page cache; running after %.3f s, resident after %.3f s", n, saved.PagesStored, r.RunningSeconds, r.ResidentSeconds)
	}
	t.Logf("running after %.3f s, resident after %.3f s", r.RunningSeconds, r.ResidentSeconds)
	waited.Kill()

	for _, name := range []string{image, diff} {
		evict()
		behind, r := restoreVM(t, v, name)
		if r.ResidentSeconds != 0 {
			t.Errorf("resident after %.3f s, and nobody waited", r.ResidentSeconds)
		}
		deadline := time.Now().Add(20 * time.Second)
		for n := int64(0); n < saved.PagesStored*9/10; n, _ = cached(t, image) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d of %d pages are in the page cache after 20 s", name, n, saved.PagesStored)
			}
			time.Sleep(10 * time.Millisecond)
		}
		whole(t, behind)
		behind.Kill()
	}
}

// cached is how many pages of a file are in the page cache.
func cached(t *testing.T, path string) (int64, bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s unix.Cachestat_t
	err = unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &s, 0)
	return int64(s.Cache), err == nil
}
