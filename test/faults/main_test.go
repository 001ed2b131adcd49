// SPDX-License-Identifier: Apache-2.0

// Package faults makes things go wrong inside of a save and a restore, one at a time, and looks at what is left of it:
//
//   - each system call on files, guest memory and the monitor fails, is cut short, is slow or hangs (calls_test.go);
//   - QEMU dies, hangs, or answers late or wrongly at each step of the dialogue (dialogue_test.go);
//   - the power fails, and of what was not synced anything may be on the disk or not (power_test.go);
//   - file systems that are full, that fail, or that cannot do what others can (filesystems_test.go).
//
// What must hold every time: the VM runs and its memory is what it was; where the image was to be there is a
// whole new one, or what was there before; the error is one line; no descriptor, goroutine or process is left.
package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
)

func TestMain(m *testing.M) {
	save.RunAttendant()
	restore.RunAttendant()
	os.Exit(m.Run())
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// left is what a process holds on to.
type left struct {
	files      []string
	goroutines int
	children   []string
}

// holding looks at this process.
func holding(t *testing.T) left {
	t.Helper()
	var l left
	fds, err := filepath.Glob("/proc/self/fd/*")
	do(t, err)
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil { // the directory's own is closed again
			l.files = append(l.files, filepath.Base(fd)+" "+target)
		}
	}
	l.goroutines = runtime.NumGoroutine()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	do(t, err)
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		l.children = append(l.children, strings.Fields(string(b))...)
	}
	slices.Sort(l.children)
	return l
}

// nothingMore waits for this process to hold no more than before; what ends by itself gets a moment for it.
func (l left) nothingMore(t *testing.T) {
	t.Helper()
	var now left
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		now = holding(t)
		if len(now.files) <= len(l.files) && now.goroutines <= l.goroutines && len(now.children) <= len(l.children) {
			return
		}
	}
	stacks := make([]byte, 1<<16)
	t.Errorf("before: %+v\nnow: %+v\n%s", l, now, stacks[:runtime.Stack(stacks, true)])
}

// oneLine checks an error's text: what the command line makes one line of, not too long for one.
func oneLine(t *testing.T, err error) {
	t.Helper()
	if s := err.Error(); s == "" || len(s) > 400 || strings.Count(s, "\n") > 1 {
		t.Errorf("the error is %q", s)
	}
}

// place is a directory with room for an image, and what is at its path.
type place struct {
	dir, image string
	old        string // the id of the image that is there; "" if there is none
}

// files checks that nothing but the image lies in the directory.
func (p *place) files(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(p.dir)
	do(t, err)
	for _, e := range entries {
		if filepath.Join(p.dir, e.Name()) != p.image {
			t.Errorf("%s is left", e.Name())
			os.Remove(filepath.Join(p.dir, e.Name()))
		}
	}
}

// what checks what is at the path: as before, or a whole image that is new. It says whether it is new.
func (p *place) what(t *testing.T) (isNew bool) {
	t.Helper()
	r, err := image.Verify(context.Background(), image.VerifyOptions{Image: p.image})
	if _, e := os.Lstat(p.image); errors.Is(e, os.ErrNotExist) {
		if p.old != "" {
			t.Error("the old image is gone")
		}
		return false
	}
	if err != nil {
		t.Errorf("what is at the path is no whole image: %v", err)
		return false
	}
	return r.ID != p.old
}

// reset makes the place as it was.
func (p *place) reset(t *testing.T) {
	t.Helper()
	if p.old == "" {
		do(t, os.RemoveAll(p.image))
		return
	}
	r, err := image.Verify(context.Background(), image.VerifyOptions{Image: p.image})
	do(t, err)
	p.old = r.ID
}

func (p *place) String() string {
	if p.old == "" {
		return "no old image"
	}
	return fmt.Sprintf("old image %.8s", p.old)
}
