// SPDX-License-Identifier: Apache-2.0

package fdset

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// with runs f with other system calls.
func with(t *testing.T, change func(*calls), f func()) {
	t.Helper()
	old := sys
	defer func() { sys = old }()
	change(&sys)
	f()
}

func noQuery(c *calls) { c.dupQuery = func(int, int) (int, error) { return -1, unix.EINVAL } }

func noKcmp(c *calls) { c.kcmp = func(int, int) (int, error) { return 0, unix.EPERM } }

func TestSameDescription(t *testing.T) {
	path := newFile(t)
	a := open(t, path, unix.O_RDONLY)
	defer a.Close()
	b := open(t, path, unix.O_RDONLY)
	defer b.Close()
	n, err := unix.Dup(int(a.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	dup := os.NewFile(uintptr(n), "")
	defer dup.Close()
	gone := open(t, path, unix.O_RDONLY)
	gone.Close()

	_, kcmpErr := sys.kcmp(n, n)
	for _, way := range []struct {
		name   string
		change func(*calls)
		works  bool
	}{
		{"whatever the kernel has", func(*calls) {}, true},
		{"F_DUPFD_QUERY", noKcmp, !errors.Is(func() error { _, err := sys.dupQuery(n, n); return err }(), unix.EINVAL)},
		{"kcmp", noQuery, kcmpErr == nil},
		{"neither", func(c *calls) { noQuery(c); noKcmp(c) }, false},
		{"another kernel", func(c *calls) {
			c.dupQuery = func(x, y int) (int, error) {
				if x == y || x+y == n+int(a.Fd()) {
					return 1, nil
				}
				return 0, nil
			}
		}, true},
	} {
		with(t, way.change, func() {
			for _, pair := range []struct {
				x, y *os.File
				want Answer
			}{{a, a, Same}, {a, dup, Same}, {dup, a, Same}, {a, b, Different}, {dup, b, Different}} {
				want := pair.want
				if !way.works {
					want = Unknown
				}
				if way.name == "whatever the kernel has" && kcmpErr != nil {
					continue
				}
				if got, err := SameDescription(pair.x, pair.y); got != want || err != nil {
					t.Errorf("%s: %v, %v, want %v", way.name, got, err, want)
				}
			}
			for _, pair := range [][2]*os.File{{a, gone}, {gone, a}} {
				if _, err := SameDescription(pair[0], pair[1]); !errors.Is(err, os.ErrClosed) {
					t.Errorf("%s: closed file: %v", way.name, err)
				}
			}
		})
	}
	for _, change := range []func(*calls){func(*calls) {}, noQuery} {
		with(t, change, func() {
			if got, err := sameDescription(int(a.Fd()), 1<<20); err == nil && got != Unknown || err != nil && !errors.Is(err, unix.EBADF) {
				t.Errorf("bad descriptor: %v, %v", got, err)
			}
		})
	}
}

func TestSameFile(t *testing.T) {
	path := newFile(t)
	a, b, c := open(t, path, unix.O_RDONLY), open(t, path, unix.O_WRONLY), open(t, newFile(t), unix.O_RDONLY)
	defer a.Close()
	defer b.Close()
	if same, err := SameFile(a, b); !same || err != nil {
		t.Errorf("same: %v, %v", same, err)
	}
	if same, err := SameFile(a, c); same || err != nil {
		t.Errorf("different: %v, %v", same, err)
	}
	c.Close()
	if _, err := SameFile(a, c); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	disk := unix.Stat_t{Mode: unix.S_IFBLK, Rdev: 5, Ino: 1}
	node := unix.Stat_t{Mode: unix.S_IFBLK, Rdev: 5, Ino: 2}
	other := unix.Stat_t{Mode: unix.S_IFBLK, Rdev: 6, Ino: 1}
	if !sameFile(&disk, &node) || sameFile(&disk, &other) {
		t.Error("block devices")
	}
}
