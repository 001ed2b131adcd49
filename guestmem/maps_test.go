// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

func TestParseMapping(t *testing.T) {
	m, err := parseMapping("7f00a0000000-7f00c0000000 rw-s 00100000 00:01 2057                       /memfd:memory-backend-memfd (deleted)")
	want := mapping{start: 0x7f00a0000000, end: 0x7f00c0000000, perms: "rw-s", offset: 0x100000, device: 1, inode: 2057, path: "/memfd:memory-backend-memfd (deleted)"}
	if err != nil || m != want || !m.shared() {
		t.Errorf("%+v, %v", m, err)
	}
	m, err = parseMapping("7f00a0000000-7f00c0000000 rw-p 00000000 00:00 0 ")
	if err != nil || m.shared() || m.inode != 0 || m.path != "" || m.describe() != "anonymous memory" {
		t.Errorf("%+v, %v", m, err)
	}
	m, err = parseMapping("1000-2000 r--p 00000000 fd:10 77 /a path\\012 with  spaces")
	if err != nil || m.device != 0xfd10 || m.path != "/a path\\012 with  spaces" {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "x", "1-2 rw-p 0 0:0", "12 rw-p 0 0:0 0", "1-z rw-p 0 0:0 0", "1-2 rw-p q 0:0 0", "1-2 rw-p 0 00 0", "1-2 rw-p 0 0:0 -1"} {
		if m, err := parseMapping(bad); err == nil {
			t.Errorf("%q is %+v", bad, m)
		}
	}
}

// FuzzParseMapping: the kernel writes these lines, but a path within may be anything.
func FuzzParseMapping(f *testing.F) {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		f.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if _, err := parseMapping(line); err != nil {
			f.Error(err)
		}
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		if m, err := parseMapping(line); err == nil && !strings.HasSuffix(strings.TrimRight(line, " "), strings.TrimRight(m.path, " ")) {
			t.Errorf("%q has the path %q", line, m.path)
		}
	})
}

// TestMapsThatChange (issue 16, point 10) reads a list in which a mapping that is split while it is read comes twice, and one whose
// mapping has another name in /proc when it is opened.
func TestMapsThatChange(t *testing.T) {
	g := newGuest(t, "memfd")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", g.pid))
	if err != nil {
		t.Fatal(err)
	}
	line := ""
	for l := range strings.Lines(string(b)) {
		if m, err := parseMapping(strings.TrimSuffix(l, "\n")); err == nil && m.start <= g.addr && g.addr < m.end {
			line = l
		}
	}
	m, err := parseMapping(strings.TrimSuffix(line, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	part := func(start, end uint64) string {
		return fmt.Sprintf("%x-%x %s %08x %02x:%02x %d %s\n", start, end, m.perms, m.offset+start-m.start, unix.Major(m.device), unix.Minor(m.device), m.inode, m.path)
	}
	defer func(f func(int) (io.ReadCloser, error)) { maps = f }(maps)
	real := maps
	for name, text := range map[string]string{
		"twice": line + part(m.start+PageSize, m.end),
		"split": part(m.start, m.start+50*PageSize) + part(m.start+50*PageSize, m.end),
	} {
		reads := 0
		maps = func(pid int) (io.ReadCloser, error) {
			if reads++; reads > 1 {
				return real(pid)
			}
			return io.NopCloser(strings.NewReader(text)), nil
		}
		memory, err := Open(g.pid, g.addr, pages*PageSize, Read, g.calls)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		memory.Close()
		t.Logf("%s: read %d times", name, reads)
	}
}
