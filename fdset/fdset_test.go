// SPDX-License-Identifier: Apache-2.0

package fdset

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

func ptr[T any](v T) *T { return &v }

// open opens a file, whose os.File belongs to the caller.
func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return os.NewFile(uintptr(fd), path)
}

// newFile makes a file with some content in a directory of the test's.
func newFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func add(t testing.TB, s *Sets, id int64, path string, flags int) int {
	t.Helper()
	a, err := s.Add(open(t, path, flags), &id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a.FD
}

func query(t testing.TB, s *Sets) string {
	t.Helper()
	b, err := json.Marshal(s.Query())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestOrder is the sequence that was run on QEMU 10.0.2.
func TestOrder(t *testing.T) {
	var s Sets
	defer s.Close()
	var ids []int64
	for i, id := range []*int64{nil, nil, ptr(int64(5)), nil, nil, ptr(int64(5))} {
		var opaque *string
		if i == 1 {
			opaque = ptr("text")
		}
		a, err := s.Add(open(t, "/dev/null", unix.O_RDONLY), id, opaque)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, a.ID)
	}
	if !slices.Equal(ids, []int64{0, 1, 5, 2, 3, 5}) {
		t.Errorf("ids %v", ids)
	}
	if err := s.Remove(2, nil); err != nil {
		t.Fatal(err)
	}
	a, _ := s.Add(open(t, "/dev/null", unix.O_RDONLY), nil, ptr(""))
	if a.ID != 2 {
		t.Errorf("id %d after the removal of 2", a.ID)
	}
	q := s.Query()
	ids = nil
	for _, set := range q {
		ids = append(ids, set.ID)
	}
	if !slices.Equal(ids, []int64{5, 3, 2, 1, 0}) {
		t.Errorf("listed %v", ids)
	}
	if len(q[0].FDs) != 2 || q[0].FDs[0].FD > q[0].FDs[1].FD || q[0].FDs[0].Opaque != nil {
		t.Errorf("set 5: %+v", q[0])
	}
	if *q[3].FDs[0].Opaque != "text" || *q[2].FDs[0].Opaque != "" {
		t.Errorf("opaque: %s", query(t, &s))
	}
}

func TestAddErrors(t *testing.T) {
	var s Sets
	f := open(t, "/dev/null", unix.O_RDONLY)
	_, err := s.Add(f, ptr(int64(-1)), nil)
	if err == nil || err.Error() != "Parameter 'fdset-id' expects a non-negative value" || !errors.Is(err, syscall.EINVAL) {
		t.Errorf("negative: %v", err)
	}
	if _, err := f.Stat(); err == nil {
		t.Error("the refused descriptor is open")
	}
	if _, err := s.Add(f, nil, nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if q := query(t, &s); q != "[]" {
		t.Errorf("left %s", q)
	}
	if a, err := s.Add(open(t, "/dev/null", unix.O_RDONLY), ptr(int64(1<<63-1)), nil); err != nil || a.ID != 1<<63-1 {
		t.Errorf("largest id: %+v, %v", a, err)
	}
	if a, err := s.Add(open(t, "/dev/null", unix.O_RDONLY), nil, nil); err != nil || a.ID != 0 {
		t.Errorf("lowest id: %+v, %v", a, err)
	}
	s.Close()
}

func TestRemove(t *testing.T) {
	var s Sets
	defer s.Close()
	a := add(t, &s, 1, "/dev/null", unix.O_RDONLY)
	b := add(t, &s, 1, "/dev/null", unix.O_WRONLY)
	for _, test := range []struct {
		id   int64
		fd   *int64
		want string
	}{
		{2, nil, "File descriptor named 'fdset-id:2' not found"},
		{2, ptr(int64(a)), fmt.Sprintf("File descriptor named 'fdset-id:2, fd:%d' not found", a)},
		{1, ptr(int64(9999)), "File descriptor named 'fdset-id:1, fd:9999' not found"},
		{-1, nil, "File descriptor named 'fdset-id:-1' not found"},
	} {
		if err := s.Remove(test.id, test.fd); err == nil || err.Error() != test.want || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
	if err := s.Remove(1, ptr(int64(a))); err != nil {
		t.Error(err)
	}
	if q, want := query(t, &s), fmt.Sprintf(`[{"fdset-id":1,"fds":[{"fd":%d}]}]`, b); q != want {
		t.Errorf("got %s, want %s", q, want)
	}
	if _, err := unix.FcntlInt(uintptr(a), unix.F_GETFL, 0); err != unix.EBADF {
		t.Errorf("removed descriptor: %v", err)
	}
	if err := s.Remove(1, ptr(int64(b))); err != nil {
		t.Error(err)
	}
	if q := query(t, &s); q != "[]" {
		t.Errorf("left %s", q)
	}
}

// TestLifetime: the set survives its descriptors until the last duplicate is closed.
func TestLifetime(t *testing.T) {
	var s Sets
	path := newFile(t)
	fd := add(t, &s, 1, path, unix.O_RDONLY)
	x, err := s.Open("/dev/fdset/1", unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	y, err := s.Open("/dev/fdset/1", unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(1, nil); err != nil {
		t.Fatal(err)
	}
	empty := `[{"fdset-id":1,"fds":[]}]`
	if q := query(t, &s); q != empty {
		t.Errorf("with two duplicates: %s", q)
	}
	if _, err := x.ReadAt(make([]byte, 10), 0); err != nil {
		t.Errorf("duplicate after the removal: %v", err)
	}
	if err := s.Remove(1, nil); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
	if err := s.Remove(1, ptr(int64(fd))); err == nil {
		t.Error("a descriptor was removed twice")
	}
	if _, err := s.Open("/dev/fdset/1", unix.O_RDONLY); err == nil || err.Error() != "Failed to find file descriptor with matching flags=0x0" {
		t.Errorf("open: %v", err)
	}
	x.Close()
	if q := query(t, &s); q != empty {
		t.Errorf("with one duplicate: %s", q)
	}
	y.Close()
	if _, err := s.Open("/dev/fdset/1", unix.O_RDONLY); err == nil || err.Error() != "Failed to find fdset /dev/fdset/1" {
		t.Errorf("open: %v", err)
	}
	if q := query(t, &s); q != "[]" {
		t.Errorf("with no duplicate: %s", q)
	}
}

// TestLostDuplicate: one that nobody can reach any more counts as closed.
func TestLostDuplicate(t *testing.T) {
	var s Sets
	add(t, &s, 1, "/dev/null", unix.O_RDONLY)
	if _, err := s.Open("/dev/fdset/1", unix.O_RDONLY); err != nil {
		t.Fatal(err)
	}
	s.Remove(1, nil)
	for range 10 {
		runtime.GC()
		if query(t, &s) == "[]" {
			return
		}
	}
	t.Errorf("left %s", query(t, &s))
}

func TestParsePath(t *testing.T) {
	for path, want := range map[string]int64{
		"/dev/fdset/0": 0, "/dev/fdset/17": 17, "/dev/fdset/ 1": 1, "/dev/fdset/\t\n\v\f\r 1": 1,
		"/dev/fdset/+1": 1, "/dev/fdset/-0": 0, "/dev/fdset/007": 7, "/dev/fdset/2147483647": 1<<31 - 1,
		"/dev/fdset/": -1, "/dev/fdset/0x1": -1, "/dev/fdset/-1": -1, "/dev/fdset/1/": -1, "/dev/fdset/1 ": -1,
		"/dev/fdset/2147483648": -1, "/dev/fdset/99999999999999999999": -1, "/dev/fdset/a": -1, "/dev/fdset": -1,
		"/dev/fdset/1_0": -1, "/dev/null": -1, "/dev/fdset/+ 1": -1, "/dev/fdset/\x00": -1,
	} {
		got, err := ParsePath(path)
		if want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: %d, %v", path, got, err)
		}
		if want < 0 && (err == nil || err.Error() != "Could not parse fdset "+path || !errors.Is(err, syscall.EINVAL)) {
			t.Errorf("%q: %d, %v", path, got, err)
		}
	}
	if !IsPath("/dev/fdset/x") || IsPath("/dev/fdset") || IsPath("./dev/fdset/1") {
		t.Error("IsPath")
	}
	var s Sets
	if _, err := s.Open("/dev/fdset/x", 0); err == nil || err.Error() != "Could not parse fdset /dev/fdset/x" {
		t.Errorf("open: %v", err)
	}
	if err := s.Check("/dev/fdset/x", Need{}); err == nil || err.Error() != "Could not parse fdset /dev/fdset/x" {
		t.Errorf("check: %v", err)
	}
}

func TestMatch(t *testing.T) {
	var s Sets
	defer s.Close()
	path := newFile(t)
	r := add(t, &s, 1, path, unix.O_RDONLY)
	w := add(t, &s, 1, path, unix.O_WRONLY)
	wd := add(t, &s, 1, path, unix.O_WRONLY|unix.O_DIRECT)
	w2 := add(t, &s, 1, path, unix.O_WRONLY)
	add(t, &s, 2, path, unix.O_RDWR)
	_ = w
	for _, test := range []struct {
		id    int
		flags int
		want  int // the descriptor that it is to be a duplicate of
	}{
		{1, unix.O_RDONLY, r},
		{1, unix.O_CREAT | unix.O_WRONLY, w2}, // the newer
		{1, unix.O_WRONLY | unix.O_DIRECT, wd},
		{1, unix.O_RDWR, -1},
		{1, unix.O_RDONLY | unix.O_DIRECT, -1},
		{2, unix.O_WRONLY, -1},
		{2, unix.O_RDONLY, -1},
	} {
		f, err := s.Open(fmt.Sprintf("/dev/fdset/%d", test.id), test.flags)
		if test.want < 0 {
			if want := fmt.Sprintf("Failed to find file descriptor with matching flags=0x%x", test.flags); err == nil || err.Error() != want || !errors.Is(err, os.ErrPermission) {
				t.Errorf("set %d, 0x%x: %v", test.id, test.flags, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("set %d, 0x%x: %v", test.id, test.flags, err)
			continue
		}
		fd, _ := rawFD(f)
		if got, err := sameDescription(fd, test.want); got != Same || err != nil {
			t.Errorf("set %d, 0x%x: %v, %v", test.id, test.flags, got, err)
		}
		if n, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); n&unix.FD_CLOEXEC == 0 {
			t.Error("a duplicate without FD_CLOEXEC")
		}
		f.Close()
	}
	if _, err := (Opener{&s, "/dev/fdset/3"}).Open(unix.O_RDONLY); err == nil || err.Error() != "Failed to find fdset /dev/fdset/3" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no set: %v", err)
	}
}

// TestFlagsStay: QEMU clears O_APPEND, O_NOATIME and O_NONBLOCK of the client's
// descriptor here.
func TestFlagsStay(t *testing.T) {
	path := newFile(t)
	for _, flags := range []int{unix.O_RDONLY, unix.O_RDONLY | unix.O_APPEND, unix.O_RDONLY | unix.O_NOATIME | unix.O_NONBLOCK,
		unix.O_WRONLY | unix.O_NONBLOCK, unix.O_RDWR | unix.O_DIRECT | unix.O_NOATIME} {
		var s Sets
		client := open(t, path, flags)
		unix.Seek(int(client.Fd()), 77, 0)
		fd, err := unix.Dup(int(client.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		s.Add(os.NewFile(uintptr(fd), ""), ptr(int64(1)), nil)
		before, _ := unix.FcntlInt(client.Fd(), unix.F_GETFL, 0)
		f, err := s.Open("/dev/fdset/1", flags&matchFlags|unix.O_CREAT)
		if err != nil {
			t.Fatal(err)
		}
		s.Check("/dev/fdset/1", Need{Write: flags&unix.O_ACCMODE == unix.O_WRONLY, Channels: 2, Direct: true})
		f.Close()
		s.Close()
		after, _ := unix.FcntlInt(client.Fd(), unix.F_GETFL, 0)
		if before != after {
			t.Errorf("flags 0x%x became 0x%x", before, after)
		}
		if pos, _ := unix.Seek(int(client.Fd()), 0, 1); pos != 77 {
			t.Errorf("position is %d", pos)
		}
		client.Close()
	}
}

func TestOpenRefused(t *testing.T) {
	path := newFile(t)
	for _, test := range []struct {
		have, ask int
		want      string // with %d for the descriptor; empty: allowed
	}{
		{unix.O_WRONLY | unix.O_SYNC, unix.O_WRONLY, "Failed to dup() given file descriptor fd=%d"},
		{unix.O_WRONLY | unix.O_DSYNC, unix.O_WRONLY, "Failed to dup() given file descriptor fd=%d"},
		{unix.O_WRONLY, unix.O_WRONLY | unix.O_SYNC, "Failed to dup() given file descriptor fd=%d"},
		{unix.O_WRONLY | unix.O_SYNC, unix.O_WRONLY | unix.O_DSYNC, "Failed to dup() given file descriptor fd=%d"},
		{unix.O_WRONLY | unix.O_SYNC, unix.O_WRONLY | unix.O_SYNC, ""},
		{unix.O_WRONLY | unix.O_APPEND, unix.O_WRONLY, "File descriptor fd=%d is open with O_APPEND"},
		{unix.O_WRONLY | unix.O_APPEND, unix.O_WRONLY | unix.O_APPEND, ""},
		{unix.O_RDONLY | unix.O_APPEND, unix.O_RDONLY, ""},
		{unix.O_RDONLY, unix.O_RDONLY | unix.O_TRUNC, "Failed to dup() given file descriptor fd=%d"}, // ftruncate fails
	} {
		var s Sets
		fd := add(t, &s, 1, path, test.have)
		_, err := s.Open("/dev/fdset/1", test.ask)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("0x%x of 0x%x: %v", test.ask, test.have, err)
		case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf(test.want, fd)) || !errors.Is(err, syscall.EINVAL)):
			t.Errorf("0x%x of 0x%x: %v", test.ask, test.have, err)
		}
		s.Close()
	}
}

func TestTruncate(t *testing.T) {
	for flags, want := range map[int]int64{
		unix.O_WRONLY:                               8192,
		unix.O_WRONLY | unix.O_CREAT:                8192,
		unix.O_WRONLY | unix.O_EXCL:                 8192,
		unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL:  0,
		unix.O_WRONLY | unix.O_TRUNC:                0,
		unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC: 0,
	} {
		var s Sets
		path := newFile(t)
		add(t, &s, 1, path, unix.O_WRONLY)
		f, err := s.Open("/dev/fdset/1", flags)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		s.Close()
		if st, _ := os.Stat(path); st.Size() != want {
			t.Errorf("0x%x: %d bytes, want %d", flags, st.Size(), want)
		}
	}
}

// TestManyDuplicates: records of closed duplicates do not pile up.
func TestManyDuplicates(t *testing.T) {
	var s Sets
	defer s.Close()
	add(t, &s, 1, "/dev/null", unix.O_RDONLY)
	var open []*os.File
	for i := range 3000 {
		f, err := s.Open("/dev/fdset/1", unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			open = append(open, f)
		} else {
			f.Close()
		}
		if n := len(s.sets[0].dups); n > 200 {
			t.Fatalf("%d records after %d opens", n, i+1)
		}
	}
	for _, f := range open {
		f.Close()
	}
}

// TestConcurrent has everything happen at once; the race detector watches, and
// no descriptor may stay.
func TestConcurrent(t *testing.T) {
	before, _ := os.ReadDir("/proc/self/fd")
	var s Sets
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 300 {
				id := int64(r.IntN(3))
				switch r.IntN(6) {
				case 0, 1:
					s.Add(open(t, "/dev/null", unix.O_RDWR), &id, nil)
				case 2:
					s.Remove(id, nil)
				case 3:
					s.Query()
				case 4:
					s.Check(fmt.Sprintf("/dev/fdset/%d", id), Need{Write: true, Channels: 1, Direct: true})
				case 5:
					if f, err := s.Open(fmt.Sprintf("/dev/fdset/%d", id), unix.O_RDWR); err == nil {
						f.Close()
					}
				}
			}
		}()
	}
	wg.Wait()
	s.Close()
	if q := query(t, &s); q != "[]" {
		t.Errorf("left %s", q)
	}
	if after, _ := os.ReadDir("/proc/self/fd"); len(after) != len(before) {
		t.Errorf("%d descriptors, %d before", len(after), len(before))
	}
}

// BenchmarkOpen opens the oldest descriptor, for which all others are looked at.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{2, 16, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var s Sets
			defer s.Close()
			path := newFile(b)
			add(b, &s, 1, path, unix.O_WRONLY|unix.O_DIRECT)
			for range n - 1 {
				add(b, &s, 1, path, unix.O_WRONLY)
			}
			b.ReportAllocs()
			for b.Loop() {
				f, err := s.Open("/dev/fdset/1", unix.O_WRONLY|unix.O_DIRECT)
				if err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}

// FuzzParsePath compares with C's strtol, written down as its man page has it.
func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"1", " 1", "+1", "-0", "0x1", "", "1/", "99999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		got, err := ParsePath(Prefix + s)
		rest := strings.TrimLeft(s, " \t\n\v\f\r")
		negative := strings.HasPrefix(rest, "-")
		if rest != "" && (rest[0] == '-' || rest[0] == '+') {
			rest = rest[1:]
		}
		var n int64
		ok := rest != ""
		for _, c := range []byte(rest) {
			if c < '0' || c > '9' {
				ok = false
				break
			}
			n = min(n*10+int64(c-'0'), 1<<40)
		}
		ok = ok && n <= 1<<31-1 && !(negative && n > 0)
		if ok != (err == nil) || ok && got != n {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	})
}
