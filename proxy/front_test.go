// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
)

func TestMain(m *testing.M) {
	attendant.Main(qemu.Guardian)
	os.Exit(m.Run())
}

// front is a proxy that serves.
type front struct {
	*Proxy
	socket string
	server *qmp.Server
}

// newFront puts one in front of a fake. When the test ends it has to be gone, with all that it made.
func newFront(t *testing.T, f *fake) *front {
	t.Helper()
	t.Cleanup(nothingLeft(t, f))
	s := &qmp.Server{}
	p, err := New(t.Context(), s, Options{Socket: f.socket})
	if err != nil {
		t.Fatal(err)
	}
	fr := &front{p, filepath.Join(t.TempDir(), "front"), s}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fr.socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		<-done
		p.Close() // what it says when the fake is gone does not matter
	})
	return fr
}

// nothingLeft notes what this process holds, and returns a check that it holds no more.
func nothingLeft(t *testing.T, f *fake) func() {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles()
	return func() {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			g, n := runtime.NumGoroutine(), openFiles()-f.holds()
			if g <= goroutines && n <= files {
				return
			}
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<16)
				t.Errorf("%d goroutines, %d before; %d descriptors, %d before\n%s", g, goroutines, n, files, stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	}
}

// holds counts the descriptors that the fake was passed and still has.
func (f *fake) holds() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.got)
	for _, s := range f.sets {
		n += len(s)
	}
	return n
}

func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// wire is a client that sees every byte.
type wire struct {
	t    *testing.T
	conn *net.UnixConn
	in   *bufio.Reader
}

// dial connects and, unless enable is "-", negotiates.
func (fr *front) dial(t *testing.T, enable string) *wire {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: fr.socket})
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t, conn, bufio.NewReader(conn)}
	t.Cleanup(func() { conn.Close() })
	if s := w.line(); !strings.Contains(s, `"QMP"`) {
		t.Fatalf("greeting: %s", s)
	}
	if enable != "-" {
		w.ask(`{"execute":"qmp_capabilities","arguments":{"enable":[`+enable+`]}}`, `{"return": {}}`)
	}
	return w
}

func (w *wire) send(s string, files ...*os.File) {
	w.t.Helper()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := w.conn.WriteMsgUnix([]byte(s), rights, nil)
	if err == nil && n < len(s) {
		_, err = w.conn.Write([]byte(s[n:]))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// line is the next line; "" is the end of the connection.
func (w *wire) line() string {
	w.t.Helper()
	w.conn.SetReadDeadline(time.Now().Add(time.Minute))
	s, err := w.in.ReadString('\n')
	if err != nil && s == "" && !strings.Contains(err.Error(), "timeout") {
		return ""
	}
	if err != nil {
		w.t.Fatalf("%q, %v", s, err)
	}
	return strings.TrimSuffix(s, "\r\n")
}

// reply is the next line that is no event.
func (w *wire) reply() string {
	w.t.Helper()
	for {
		if s := w.line(); !strings.Contains(s, `"event"`) {
			return s
		}
	}
}

// ask sends a command and compares the answer.
func (w *wire) ask(command, want string, files ...*os.File) {
	w.t.Helper()
	w.send(command, files...)
	if got := w.reply(); got != want {
		w.t.Errorf("%.200s\n   says %.300s\n wanted %.300s", command, got, want)
	}
}

// until repeats a command until its answer has something in it.
func (w *wire) until(command, has string) string {
	w.t.Helper()
	var s string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		w.send(command)
		if s = w.reply(); strings.Contains(s, has) {
			return s
		}
	}
	w.t.Fatalf("%s says %s, not %s", command, s, has)
	return ""
}

// ready passes a new file, in set 1, and sets the capabilities named.
func (w *wire) ready(caps ...string) *os.File {
	w.t.Helper()
	f, err := os.OpenFile(filepath.Join(w.t.TempDir(), "image"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Close() })
	w.send(`{"execute":"add-fd","arguments":{"fdset-id":1}}`, f)
	if s := w.reply(); !strings.Contains(s, `"fdset-id": 1`) {
		w.t.Fatal(s)
	}
	for _, c := range append([]string{"mapped-ram", "events"}, caps...) {
		w.ask(`{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"`+c+`","state":true}]}}`, `{"return": {}}`)
	}
	return f
}

const (
	migrateIt    = `{"execute":"migrate","arguments":{"uri":"file:/dev/fdset/1"}}`
	queryMigrate = `{"execute":"query-migrate"}`
	empty        = `{"return": {}}`
)

// guardian is the process id of the guardian, a child of this process.
func guardian(t *testing.T) int {
	t.Helper()
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, pid := range strings.Fields(string(b)) {
			cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			var n int
			if args := strings.Split(string(cmd), "\x00"); slices.Contains(args, "ramjet-guardian") {
				fmt.Sscan(pid, &n)
				return n
			}
		}
	}
	t.Fatal("no guardian")
	return 0
}
