// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func countFDs(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func tempFile(t testing.TB, content string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	io.WriteString(f, content)
	return f
}

func TestServerDescriptors(t *testing.T) {
	w := serve(t, testServer())
	w.negotiate()
	a, b := tempFile(t, "first"), tempFile(t, "second")
	none := generic("No file descriptor supplied via SCM_RIGHTS")
	before := countFDs(t)

	w.send(`{"execute":"add-fd"}`)
	w.expect(none)
	w.send(`{"execute":"add-fd"}`, a, b) // the first is taken, the second closed
	w.expect(`{"return": "first"}`)
	w.send(`{"execute":"add-fd"}`)
	w.expect(none)
	// With an earlier byte: white space, as QEMU's own tests do.
	w.send(" ", a)
	w.send(`{"execute":"add-fd"}`)
	w.expect(`{"return": "first"}`)
	// What comes replaces what has not been taken.
	w.send(`{"execute"`, a)
	w.send(`:"add-fd"}`, b)
	w.expect(`{"return": "second"}`)
	// Left by a command that was refused, or that takes none, or that was none.
	for _, in := range []string{`{"execute":"add-fd","arguments":{"x":1}}`, `{"execute":"query-name"}`, "\x01", `{"execute":"nothing"}`} {
		w.send(in, a)
		w.line()
		w.send(`{"execute":"add-fd"}`)
		w.expect(none)
	}
	// Each command gets its own however they arrive.
	w.send(`{"execute":"wait-for-nothing"}`)
	w.send(`{"execute":"add-fd"}`, a)
	w.send(`{"execute":"query-name"}` + strings.Repeat(" ", 5000))
	w.send(`{"execute":"add-fd"}`, b)
	w.send(`{"execute":"add-fd"}`)
	w.expect(notFound("The command wait-for-nothing has not been found"), `{"return": "first"}`,
		`{"return": {}}`, `{"return": "second"}`, none)
	if n := countFDs(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

// TestServerManyDescriptors: 16 of a message arrive, with FD_CLOEXEC.
func TestServerManyDescriptors(t *testing.T) {
	s := testServer()
	s.Commands["count"] = Command{Run: func(_ context.Context, r *Request) (any, error) {
		n := 0
		for _, f := range r.TakeFiles() {
			if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags != unix.FD_CLOEXEC {
				t.Errorf("flags %d, %v", flags, err)
			}
			f.Close()
			n++
		}
		return n, nil
	}}
	w := serve(t, s)
	w.negotiate()
	f := tempFile(t, "")
	before := countFDs(t)
	for _, n := range []int{0, 1, 16, 17, 200} {
		files := make([]*os.File, n)
		for i := range files {
			files[i] = f
		}
		w.send(`{"execute":"count"}`, files...)
		w.expect(fmt.Sprintf(`{"return": %d}`, min(n, MaxFiles)))
	}
	if n := countFDs(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}
