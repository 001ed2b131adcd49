// SPDX-License-Identifier: Apache-2.0

package fdset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// state is everything about the descriptors of a set that a check might change.
func state(t *testing.T, s *Sets) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(query(t, s))
	for _, set := range s.Query() {
		for _, fd := range set.FDs {
			flags, _ := unix.FcntlInt(uintptr(fd.FD), unix.F_GETFL, 0)
			pos, _ := unix.Seek(fd.FD, 0, unix.SEEK_CUR)
			var st unix.Stat_t
			unix.Fstat(fd.FD, &st)
			fmt.Fprintf(&b, " %d:0x%x@%d/%d", fd.FD, flags, pos, st.Size)
		}
	}
	return b.String()
}

const (
	plainR, plainW   = unix.O_RDONLY, unix.O_WRONLY
	directR, directW = unix.O_RDONLY | unix.O_DIRECT, unix.O_WRONLY | unix.O_DIRECT
)

var (
	save       = Need{Write: true}
	saveMany   = Need{Write: true, Channels: 2}
	saveDirect = Need{Write: true, Channels: 2, Direct: true}
	loadDirect = Need{Channels: 4, Direct: true}
)

// statxSays makes the kernel report a direct I/O alignment.
func statxSays(mask uint32, memory, offset uint32) func(*calls) {
	return func(c *calls) {
		c.statx = func(_, _ int, st *unix.Statx_t) error {
			*st = unix.Statx_t{Mask: mask, Dio_mem_align: memory, Dio_offset_align: offset}
			return nil
		}
	}
}

func onFileSystem(magic int64) func(*calls) {
	return func(c *calls) {
		c.fstatfs = func(_ int, st *unix.Statfs_t) error { st.Type = magic; return nil }
	}
}

func both(fs ...func(*calls)) func(*calls) {
	return func(c *calls) {
		for _, f := range fs {
			f(c)
		}
	}
}

func same(*calls) {}

// usual is a file system that takes direct I/O and says so.
var usual = both(onFileSystem(unix.EXT4_SUPER_MAGIC), statxSays(unix.STATX_DIOALIGN, 512, 512))

// TestCheck has each way in which a set can be right or wrong. Descriptors are
// called A, B, C in the order in which they were added.
func TestCheck(t *testing.T) {
	path, other, empty := newFile(t), newFile(t), filepath.Join(t.TempDir(), "empty")
	os.WriteFile(empty, nil, 0o600)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	keep := open(t, fifo, unix.O_RDWR)
	defer keep.Close()

	type fd struct {
		path  string
		flags int
	}
	dup := fd{path: "dup"} // of the one before
	for _, test := range []struct {
		name   string
		fds    []fd
		need   Need
		change func(*calls)
		want   Problem
		text   string // pattern
	}{
		{"plain", []fd{{path, plainW}}, save, same, 0, ""},
		{"plain, channels", []fd{{path, plainW}}, saveMany, same, 0, ""},
		{"both", []fd{{path, plainW}, {path, directW}}, saveDirect, usual, 0, ""},
		{"both, other order", []fd{{path, directW}, {path, plainW}}, saveDirect, usual, 0, ""},
		{"both, not direct", []fd{{path, plainW}, {path, directW}}, saveMany, usual, 0, ""},
		{"both to load", []fd{{path, plainR}, {path, directR}}, loadDirect, usual, 0, ""},
		{"three", []fd{{path, plainW}, {path, directW}, {path, plainR}}, saveDirect, usual, 0, ""},
		{"direct without channels", []fd{{path, plainW}}, Need{Write: true, Direct: true}, usual, 0, ""},
		{"two dups, not direct", []fd{{path, plainW}, dup}, saveMany, usual, 0, ""},
		{"old kernel", []fd{{path, plainW}, {path, directW}}, saveDirect, statxSays(0, 0, 0), 0, ""},
		{"4096", []fd{{path, plainW}, {path, directW}}, saveDirect, statxSays(unix.STATX_DIOALIGN, 4096, 4096), 0, ""},
		{"reader appends", []fd{{path, plainR | unix.O_APPEND}}, Need{}, usual, 0, ""},
		{"empty file to save", []fd{{empty, plainW}}, save, same, 0, ""},

		{"one plain", []fd{{path, plainW}}, saveDirect, usual, OnlyOne,
			`^Descriptor set 1 cannot be used: it has only A for saving, open without O_DIRECT, and direct-io needs a second one, from an open\(2\) of its own, with O_DIRECT$`},
		{"one direct", []fd{{path, directR}}, loadDirect, usual, OnlyOne, `only A for loading, open with O_DIRECT, .* own, without O_DIRECT$`},
		{"dup of plain", []fd{{path, plainW}, dup}, saveDirect, usual, SameDescriptors,
			`: A and B are the same open file description \(dup\), direct-io needs two`},
		{"dup of direct", []fd{{path, directW}, dup}, saveDirect, usual, SameDescriptors, `: A and B are the same open`},
		{"dup, kernel does not tell", []fd{{path, plainW}, dup}, saveDirect, both(usual, noQuery, noKcmp), NoDirect, `A and B are both open without O_DIRECT, direct-io needs one with`},
		{"both plain", []fd{{path, plainW}, {path, plainW}}, saveDirect, usual, NoDirect, `A and B are both open without O_DIRECT, direct-io needs one with`},
		{"both direct", []fd{{path, directW}, {path, directW}}, saveDirect, usual, AllDirect, `A and B are both open with O_DIRECT, headers and device state need one without`},
		{"direct, not wanted", []fd{{path, directW}}, saveMany, usual, AllDirect, `A is open with O_DIRECT, headers`},
		{"all for reading", []fd{{path, plainR}, {path, directR}}, saveDirect, usual, AccessMode,
			`A is open for reading only, B is open for reading only, saving needs descriptors open exactly for writing only`},
		{"for both", []fd{{path, unix.O_RDWR}}, Need{}, usual, AccessMode, `A is open for reading and writing, loading needs descriptors open exactly for reading only`},
		{"direct one for reading", []fd{{path, plainW}, {path, directR}}, saveDirect, usual, AccessMode, `: B is open for reading only, saving needs it open exactly for writing only`},
		{"plain one for both", []fd{{path, directW}, {path, unix.O_RDWR}}, saveDirect, usual, AccessMode, `: B is open for reading and writing, saving`},
		{"access mode 3", []fd{{path, 3}}, save, usual, AccessMode, `A is open with access mode 3`},
		{"many for reading", []fd{{path, 0}, {path, 0}, {path, 0}, {path, 0}, {path, 0}, {path, 0}}, save, usual, AccessMode, `D is open for reading only, and 2 more, saving`},
		{"different files", []fd{{path, plainW}, {other, directW}}, saveDirect, usual, DifferentFiles,
			`A and B are of different files \(inode \d+ on device \d+:\d+ and inode \d+ on device \d+:\d+\)`},
		{"pipe", []fd{{fifo, plainW}}, save, same, NotSeekable, `A is a pipe, pages have their places in a regular file or a block device`},
		{"pipe and file", []fd{{path, plainW}, {path: "packet pipe"}}, saveDirect, usual, NotSeekable, `B is a pipe`},
		{"null", []fd{{"/dev/null", plainW}}, save, same, NotSeekable, `A is a character device`},
		{"directory", []fd{{t.TempDir(), plainR}}, Need{}, same, NotSeekable, `A is a directory`},
		{"append", []fd{{path, plainW | unix.O_APPEND}}, save, usual, Append, `A is open with O_APPEND`},
		{"synchronous", []fd{{path, plainW | unix.O_SYNC}}, save, usual, Synchronous, `A is open with O_SYNC`},
		{"synchronous data, direct", []fd{{path, plainW}, {path, directW | unix.O_DSYNC}}, saveDirect, usual, Synchronous, `B is open with O_SYNC or O_DSYNC`},
		{"append, direct", []fd{{path, plainW}, {path, directW | unix.O_APPEND}}, saveDirect, usual, Append, `B is open with O_APPEND`},
		{"ramfs", []fd{{path, plainW}, {path, plainW}}, saveDirect, onFileSystem(unix.RAMFS_MAGIC), NoDirectSupport,
			`needs a descriptor with O_DIRECT, and the file of B is on ramfs, which knows no direct I/O: use another file system, or switch direct-io off$`},
		{"tmpfs", []fd{{path, plainW}}, saveDirect, onFileSystem(unix.TMPFS_MAGIC), NoDirectSupport, `the file of A is on tmpfs`},
		{"hugetlbfs", []fd{{path, plainW}}, saveDirect, onFileSystem(unix.HUGETLBFS_MAGIC), NoDirectSupport, `on hugetlbfs`},
		{"encrypted, plain only", []fd{{path, plainW}}, saveDirect, statxSays(unix.STATX_DIOALIGN, 0, 0), NoDirectSupport, `the file of A does not take direct I/O`},
		{"encrypted", []fd{{path, plainW}, {path, directW}}, saveDirect, statxSays(unix.STATX_DIOALIGN, 0, 0), NoDirectSupport, `the file of B does not take direct I/O`},
		{"64 KiB", []fd{{path, plainW}, {path, directW}}, saveDirect, statxSays(unix.STATX_DIOALIGN, 512, 65536), Alignment,
			`direct I/O on the file of B must be aligned to 65536 bytes, pages have 4096: switch direct-io off`},
		{"odd unit", []fd{{path, plainW}, {path, directW}}, Need{Write: true, Channels: 1, Direct: true, Unit: 6144}, statxSays(unix.STATX_DIOALIGN, 4096, 512), Alignment, `4096 bytes, pages have 6144`},
		{"negative offset", []fd{{path, plainW}}, Need{Write: true, Offset: -5}, same, OutOfRange, `offset -5 is negative`},
		{"nothing to load", []fd{{empty, plainR}}, Need{}, same, OutOfRange, `the file of A has 0 bytes, there is nothing to load at offset 0`},
		{"offset beyond", []fd{{path, plainR}}, Need{Offset: 8192}, same, OutOfRange, `8192 bytes, there is nothing to load at offset 8192`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s Sets
			defer s.Close()
			var names []string
			for i, d := range test.fds {
				var f *os.File
				if d == dup {
					n, err := unix.Dup(s.sets[0].members[i-1].fd)
					if err != nil {
						t.Fatal(err)
					}
					f = os.NewFile(uintptr(n), "")
				} else if d.path == "packet pipe" {
					var p [2]int
					if err := unix.Pipe2(p[:], unix.O_DIRECT|unix.O_CLOEXEC); err != nil {
						t.Fatal(err)
					}
					defer unix.Close(p[0])
					f = os.NewFile(uintptr(p[1]), "")
				} else {
					f = open(t, d.path, d.flags)
					unix.Seek(int(f.Fd()), 33, unix.SEEK_SET)
				}
				var opaque *string
				if i == 1 {
					opaque = ptr("the second")
				}
				a, err := s.Add(f, ptr(int64(1)), opaque)
				if err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprintf("fd=%d", a.FD)
				if i == 1 {
					name += ` ("the second")`
				}
				names = append(names, name)
			}
			before := state(t, &s)
			var err error
			with(t, test.change, func() { err = s.Check("/dev/fdset/1", test.need) })
			if after := state(t, &s); after != before {
				t.Errorf("the set was\n%s, is\n%s", before, after)
			}
			if test.want == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var wrong *WrongSetError
			if !errors.As(err, &wrong) || wrong.Problem != test.want || wrong.ID != 1 {
				t.Fatalf("got %v, want problem %d", err, test.want)
			}
			text := wrong.Error()
			for i, name := range names {
				text = strings.ReplaceAll(text, name, string(rune('A'+i)))
			}
			if !regexp.MustCompile(test.text).MatchString(text) {
				t.Errorf("got  %s\nwant %s", text, test.text)
			}
			if strings.Contains(text, "\n") {
				t.Error("more than one line")
			}
		})
	}
}

func TestCheckNoSet(t *testing.T) {
	var s Sets
	if err := s.Check("/dev/fdset/4", save); err == nil || err.Error() != "Failed to find fdset /dev/fdset/4" {
		t.Errorf("no set: %v", err)
	}
	add(t, &s, 4, newFile(t), plainW)
	f, err := s.Open("/dev/fdset/4", plainW)
	if err != nil {
		t.Fatal(err)
	}
	s.Remove(4, nil)
	var wrong *WrongSetError
	if err := s.Check("/dev/fdset/4", save); !errors.As(err, &wrong) || wrong.Problem != Empty {
		t.Errorf("empty set: %v", err)
	}
	f.Close()
}

// TestCheckIsOpen: what Check lets pass can be opened as the migration does, and
// what cannot be opened is not let pass.
func TestCheckIsOpen(t *testing.T) {
	path := newFile(t)
	flags := []int{plainR, plainW, directR, directW, unix.O_RDWR, unix.O_RDWR | unix.O_DIRECT}
	for i := range 1 << len(flags) {
		var s Sets
		for j, f := range flags {
			if i>>j&1 != 0 {
				add(t, &s, 1, path, f)
			}
		}
		for _, need := range []Need{save, saveMany, saveDirect, loadDirect, {}, {Channels: 1}} {
			mode := unix.O_RDONLY
			if need.Write {
				mode = unix.O_WRONLY
			}
			openable := true
			for k := range need.Channels + 1 {
				ask := mode
				if k > 0 && need.Direct {
					ask |= unix.O_DIRECT
				}
				f, err := s.Open("/dev/fdset/1", ask)
				if err != nil {
					openable = false
					break
				}
				f.Close()
			}
			if err := s.Check("/dev/fdset/1", need); (err == nil) != openable {
				t.Errorf("descriptors %b, %+v: openable %v, check %v", i, need, openable, err)
			}
		}
		s.Close()
	}
}
