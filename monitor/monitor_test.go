// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// size of the guest of these tests, in bytes.
const size = 1 << 20

// bench is a monitor with one client.
type bench struct {
	*Monitor
	server *qmp.Server
	client *qmp.Client
	events <-chan qmp.Event

	mu    sync.Mutex
	quits []error

	order sync.Mutex // see sync
}

// sync is called by the client before and after each command, and by the server too, so that what a test sets before a
// command is seen by the server, for the race detector too: it knows of no order between a message's sender and its
// receiver.
func (b *bench) sync() {
	b.order.Lock()
	defer b.order.Unlock()
}

func newBench(t testing.TB, o Options) *bench {
	t.Helper()
	m := NewMemory()
	if err := m.Add("m0", size); err != nil {
		t.Fatal(err)
	}
	b := &bench{server: new(qmp.Server)}
	o.Emit = func(name string, data any) {
		e := qmp.Event{Name: name}
		if data != nil {
			e.Data, _ = json.Marshal(data)
		}
		b.server.Emit(e)
	}
	o.Quit = func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.quits = append(b.quits, err)
	}
	b.Monitor = New(m, o)
	b.server.Commands = b.Commands()
	for name, c := range b.server.Commands {
		run := c.Run
		c.Run = func(ctx context.Context, r *qmp.Request) (any, error) {
			b.sync()
			defer b.sync()
			return run(ctx, r)
		}
		b.server.Commands[name] = c
	}
	near, far := testkit.Sockets(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.server.ServeConn(context.Background(), far)
	}()
	c, err := qmp.Dialer{OOB: true}.NewClient(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	b.client = c
	b.events, _ = c.Subscribe()
	t.Cleanup(func() {
		c.Close()
		<-done
		b.Close()
	})
	return b
}

// do runs a command that has to succeed.
func (b *bench) do(t testing.TB, command, args string, files ...*os.File) json.RawMessage {
	t.Helper()
	out, err := b.try(command, args, files...)
	if err != nil {
		t.Fatalf("%s %s: %v", command, args, err)
	}
	return out
}

func (b *bench) try(command, args string, files ...*os.File) (out json.RawMessage, err error) {
	var in any
	if args != "" {
		in = json.RawMessage(args)
	}
	b.sync()
	defer b.sync()
	err = b.client.Execute(context.Background(), command, in, &out, files...)
	return out, err
}

// refused runs a command that has to fail with a text that has words in it.
func (b *bench) refused(t testing.TB, words, command, args string) {
	t.Helper()
	if _, err := b.try(command, args); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("%s %s: %v; want %q", command, args, err, words)
	}
}

// ended waits for the end of a migration.
func (b *bench) ended(t testing.TB) migration.Info {
	t.Helper()
	for range 2000 {
		var i migration.Info
		if err := json.Unmarshal(b.do(t, "query-migrate", ""), &i); err != nil {
			t.Fatal(err)
		}
		switch i.Status {
		case migration.StatusCompleted, migration.StatusFailed, migration.StatusCancelled:
			return i
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("no end")
	return migration.Info{}
}

// pass adds descriptors of a file to set 1 and returns them.
func (b *bench) pass(t testing.TB, path string, modes ...int) {
	t.Helper()
	for _, m := range modes {
		f, err := os.OpenFile(path, m, 0o600)
		if err != nil {
			t.Skip(err) // a file system without O_DIRECT
		}
		b.do(t, "add-fd", `{"fdset-id":1}`, f)
		f.Close()
	}
}

func (b *bench) contents(t testing.TB) []byte {
	t.Helper()
	p := make([]byte, size)
	if _, err := b.memory.pieces[0].file.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

const (
	mappedCaps = `{"capabilities":[{"capability":"mapped-ram","state":true},{"capability":"multifd","state":true},{"capability":"events","state":true}]}`
	toSet      = `{"uri":"file:/dev/fdset/1"}`
)

// data is memory with holes, zeros and bytes.
func data() []byte {
	p := make([]byte, size)
	copy(p[100<<10:], bytes.Repeat([]byte("ramjet "), 30<<10))
	return p
}

// TestParametersMeanwhile: parameters that are set while a migration is under way count for it.
func TestParametersMeanwhile(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/image"
	b := newBench(t, Options{})
	if _, err := b.memory.pieces[0].file.WriteAt(data(), 0); err != nil {
		t.Fatal(err)
	}
	b.do(t, "migrate-set-capabilities", mappedCaps)
	b.do(t, "migrate-set-parameters", `{"max-bandwidth":1}`)
	b.pass(t, path, os.O_WRONLY|os.O_CREATE)
	b.do(t, "migrate", toSet)
	time.Sleep(20 * time.Millisecond)
	if i := b.out.Info(); i.Status != migration.StatusActive {
		t.Fatalf("it is %s", i.Status)
	}
	b.do(t, "migrate-set-parameters", `{"zero-page-detection":"none"}`)
	b.do(t, "migrate-set-parameters", `{"max-bandwidth":0}`)
	if i := b.ended(t); i.Status != migration.StatusCompleted || i.RAM.Normal != size/4096 || i.RAM.Duplicate != 0 {
		t.Errorf("ended as %+v, %+v", i, i.RAM)
	}
}

// TestRoundTrip: what is saved is what is loaded, in each format.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, caps := range map[string]string{"mapped-ram": mappedCaps, "plain": `{"capabilities":[]}`} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/image"
			from := newBench(t, Options{})
			if _, err := from.memory.pieces[0].file.WriteAt(data(), 0); err != nil {
				t.Fatal(err)
			}
			from.do(t, "migrate-set-capabilities", caps)
			from.pass(t, path, os.O_WRONLY|os.O_CREATE)
			from.do(t, "migrate", toSet)
			if i := from.ended(t); i.Status != migration.StatusCompleted || i.RAM.Normal == 0 || i.RAM.Remaining != 0 || i.RAM.Normal+i.RAM.Duplicate != size/4096 {
				t.Errorf("ended as %+v, %+v", i, i.RAM)
			}
			to := newBench(t, Options{Incoming: true})
			to.do(t, "migrate-set-capabilities", caps)
			to.pass(t, path, os.O_RDONLY)
			// What an earlier load that failed has left goes.
			if _, err := to.memory.pieces[0].file.WriteAt([]byte("left"), 900<<10); err != nil {
				t.Fatal(err)
			}
			to.do(t, "migrate-incoming", toSet)
			if i := to.ended(t); i.Status != migration.StatusCompleted {
				t.Errorf("load ended as %+v", i)
			}
			if !bytes.Equal(to.contents(t), data()) {
				t.Error("the memory is another")
			}
			if s := string(to.do(t, "query-status", "")); s != `{"status": "running", "running": true}` {
				t.Errorf("status %s", s)
			}
		})
	}
}

// TestShortWrites: the kernel may write less than it was asked to, which is no reason to leave pages out; and a disk
// that fails for good fails the migration, after which there is no image, and the guest runs.
func TestShortWrites(t *testing.T) {
	path := t.TempDir() + "/image"
	b := newBench(t, Options{})
	if _, err := b.memory.pieces[0].file.WriteAt(data(), 0); err != nil {
		t.Fatal(err)
	}
	b.do(t, "migrate-set-capabilities", mappedCaps)
	b.pass(t, path, os.O_WRONLY|os.O_CREATE)
	broken := false
	c := sys.Kernel()
	write := c.Pwrite
	c.Pwrite = func(fd int, p []byte, off int64) (int, error) {
		if broken && off >= 1<<20 {
			return 0, unix.EIO
		}
		if len(p) > 8192 {
			p = p[:8192]
		}
		return write(fd, p, off)
	}
	b.out.Calls = c
	b.do(t, "migrate", toSet)
	if i := b.ended(t); i.Status != migration.StatusCompleted {
		t.Fatalf("%+v", i)
	}
	image, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(image, data()[100<<10:200<<10]) {
		t.Errorf("pages are missing: %v", err)
	}
	b.do(t, "cont", "")
	broken = true
	b.do(t, "migrate", toSet)
	if i := b.ended(t); i.Status != migration.StatusFailed || !strings.Contains(i.Error, "input/output error") {
		t.Errorf("%+v", i)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 0 {
		t.Errorf("%d bytes are left, %v", st.Size(), err)
	}
	if s := string(b.do(t, "query-status", "")); !strings.Contains(s, `"running": true`) {
		t.Errorf("status %s", s)
	}
	broken = false
	b.do(t, "migrate", toSet)
	if i := b.ended(t); i.Status != migration.StatusCompleted {
		t.Errorf("%+v", i)
	}
}

// TestIncomingFails: exit-on-error is QEMU's default; without it, the load can be tried again.
func TestIncomingFails(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/nothing"
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{Incoming: true})
	b.do(t, "migrate-set-capabilities", mappedCaps)
	b.pass(t, path, os.O_RDONLY)
	for range 2 {
		b.do(t, "migrate-incoming", `{"uri":"file:/dev/fdset/1","exit-on-error":false}`)
		if i := b.ended(t); i.Status != migration.StatusFailed || !strings.Contains(i.Error, "not a QEMU migration stream") {
			t.Errorf("%+v", i)
		}
	}
	if len(b.quits) > 0 {
		t.Errorf("quits: %v", b.quits)
	}
	b.do(t, "migrate-incoming", toSet)
	b.ended(t)
	for range 100 {
		b.mu.Lock()
		n := len(b.quits)
		b.mu.Unlock()
		if n > 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.quits) != 1 || b.quits[0] == nil {
		t.Errorf("quits: %v", b.quits)
	}
}

// TestCommandsAreKnown: query-commands lists what can be executed.
func TestCommandsAreKnown(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	var list []struct{ Name string }
	if err := json.Unmarshal(b.do(t, "query-commands", ""), &list); err != nil || len(list) < 20 {
		t.Fatalf("%d commands, %v", len(list), err)
	}
	for _, c := range list {
		if c.Name == "query-version" || c.Name == "qmp_capabilities" || c.Name == "quit" {
			continue
		}
		_, err := b.try(c.Name, "")
		var e *qmp.Error
		if errors.As(err, &e) && e.Class == qmp.CommandNotFound {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	b.refused(t, "runs without access to the file system", "migrate", `{"uri":"file:/tmp/x"}`)
	b.refused(t, "Parameter 'id' is missing", "object-add", `{"qom-type":"memory-backend-memfd","size":4096}`)
}
