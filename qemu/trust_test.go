// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRecordedExecutable has the recorded program be run only if it is a QEMU that nobody else can have put there or
// can change. (Issue 15, point 15.)
func TestRecordedExecutable(t *testing.T) {
	dir := t.TempDir()
	// Temporary directories lie below /tmp, which is sticky and root's.
	program := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := program("good/qemu-system-x86_64", 0o755)
	open := program("open/qemu-system-x86_64", 0o755)
	if err := os.Chmod(filepath.Dir(open), 0o777); err != nil {
		t.Fatal(err)
	}
	disguised := filepath.Join(dir, "link", "qemu-system-x86_64")
	if err := os.MkdirAll(filepath.Dir(disguised), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/sh", disguised); err != nil {
		t.Fatal(err)
	}
	me := os.Geteuid()
	for _, c := range []struct {
		what, path string
		uid        int
		wrong      string // "": it is run
	}{
		{"the user's own", good, me, ""},
		{"no QEMU", "/bin/sh", me, "not named"},
		{"no QEMU, the user's own", program("good/sh", 0o755), me, "not named"},
		{"a link to no QEMU", disguised, me, "not named"},
		{"the group may write", program("group/qemu-system-x86_64", 0o775), me, "others than its owner"},
		{"all may write", program("all/qemu-system-x86_64", 0o757), me, "others than its owner"},
		{"all may write to its directory", open, me, "others than its owner"},
		{"relative", "qemu-system-x86_64", me, "not an absolute path"},
		{"gone", filepath.Join(dir, "qemu-system-gone"), me, "no such file"},
		{"a directory", dir, me, "not named"},
		{"another user's", good, 4242, "belongs to user"},
	} {
		if c.uid != me && me == 0 {
			if err := os.Chown(good, 4243, -1); err != nil {
				t.Fatal(err)
			}
		}
		err := checkProgram(c.path, c.uid)
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v, want %q", c.what, err, c.wrong)
		}
	}
}

// TestProgramInPath has a recorded program that is not to be run be replaced by the one of its name in PATH.
func TestProgramInPath(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-i386"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	for recorded, want := range map[string]string{
		"":                              "qemu-system-x86_64",
		"/bin/sh":                       "qemu-system-x86_64",
		"/nonexistent/qemu-system-i386": "qemu-system-i386",
	} {
		path, why, err := Program(recorded)
		if err != nil || path != filepath.Join(dir, want) || (why == nil) != (recorded == "") {
			t.Errorf("for %q: %q, %v, %v", recorded, path, why, err)
		}
	}
}
