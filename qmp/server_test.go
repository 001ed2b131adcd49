// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testServer has a command for each thing that a test wants to see.
func testServer() *Server {
	s := &Server{Greeting: Greeting{Major: 10, Minor: 0, Micro: 2, Package: "é"}}
	nothing := func(_ context.Context, r *Request) (any, error) { return nil, r.Args(nil) }
	s.Commands = map[string]Command{
		"query-name": {Run: nothing},
		"oob-name":   {Run: nothing, OOB: true},
		"echo": {Run: func(_ context.Context, r *Request) (any, error) {
			return r.Arguments(), nil
		}},
		"add-fd": {Run: func(_ context.Context, r *Request) (any, error) {
			var args struct {
				Set    *int64 `json:"fdset-id"`
				Opaque string `json:"opaque,omitempty"`
			}
			if err := r.Args(&args); err != nil {
				return nil, err
			}
			f, err := r.TakeFile()
			if err != nil {
				return nil, err
			}
			defer f.Close()
			b := make([]byte, 64)
			n, _ := f.ReadAt(b, 0)
			return string(b[:n]), nil
		}},
		"fail": {Run: func(context.Context, *Request) (any, error) { return nil, errors.New("it failed") }},
		"bad":  {Run: func(context.Context, *Request) (any, error) { return func() {}, nil }},
		"not-active": {Run: func(context.Context, *Request) (any, error) {
			return nil, fmt.Errorf("wrapped: %w", &Error{DeviceNotActive, "no device"})
		}},
		"event": {Run: func(_ context.Context, r *Request) (any, error) {
			s.Emit(Event{Name: "ALL", Data: json.RawMessage(`{"a":"é"}`), Time: time.Unix(3, 4000)})
			return nil, r.Session.Emit(Event{Name: "ONE"})
		}},
	}
	return s
}

// wire is a client that sees bytes.
type wire struct {
	t    *testing.T
	conn *net.UnixConn
	r    *bufio.Reader
}

// serve runs a session of s and returns the client's end, greeted.
func serve(t *testing.T, s *Server) *wire {
	t.Helper()
	mine, theirs := pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(ctx, theirs) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ServeConn: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("ServeConn did not return")
		}
	})
	w := &wire{t, mine, bufio.NewReader(mine)}
	w.expect(`{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "\u00E9"}, "capabilities": ["oob"]}}`)
	return w
}

func (w *wire) send(s string, files ...*os.File) {
	w.t.Helper()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if err := sendWithFDs(w.conn, []byte(s), fds); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) line() string {
	w.t.Helper()
	w.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	s, err := w.r.ReadString('\n')
	if err != nil {
		w.t.Fatalf("%q, %v", s, err)
	}
	return s
}

func (w *wire) expect(lines ...string) {
	w.t.Helper()
	for _, want := range lines {
		if got := w.line(); got != want+"\r\n" {
			w.t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func (w *wire) negotiate() {
	w.t.Helper()
	w.send(`{"execute": "qmp_capabilities"}`)
	w.expect(`{"return": {}}`)
}

func generic(desc string) string {
	return `{"error": {"class": "GenericError", "desc": "` + desc + `"}}`
}

func notFound(desc string) string {
	return `{"error": {"class": "CommandNotFound", "desc": "` + desc + `"}}`
}

func TestServerNegotiation(t *testing.T) {
	w := serve(t, testServer())
	expecting := "Expecting capabilities negotiation with 'qmp_capabilities'"
	for _, test := range [][2]string{
		{`{"execute":"query-name"}`, notFound(expecting)},
		{`{"execute":"nothing","id":7}`, `{"id": 7, "error": {"class": "CommandNotFound", "desc": "` + expecting + `"}}`},
		{`{"execute":"qmp_capabilities","arguments":{"enable":["foo"]}}`, generic("Parameter 'null' does not accept value 'foo'")},
		{`{"execute":"qmp_capabilities","arguments":{"enable":[1]}}`, generic("Invalid parameter type for 'enable[0]', expected: string")},
		{`{"execute":"qmp_capabilities","arguments":{"enable":1}}`, generic("Invalid parameter type for 'enable', expected: array")},
		{`{"execute":"qmp_capabilities","arguments":{"x":1}}`, generic("Parameter 'x' is unexpected")},
		{`{"exec-oob":"qmp_capabilities"}`, generic("QMP input member 'exec-oob' is unexpected")},
		{`{"execute":"qmp_capabilities","id":{"a":[null]}}`, `{"return": {}, "id": {"a": [null]}}`},
		{`{"execute":"qmp_capabilities"}`, notFound("Capabilities negotiation is already complete, command ignored")},
		{`{"execute":"query-name"}`, `{"return": {}}`},
	} {
		w.send(test[0])
		w.expect(test[1])
	}

	s := testServer()
	s.NoOOB = true
	mine, theirs := pair(t)
	go s.ServeConn(t.Context(), theirs)
	no := &wire{t, mine, bufio.NewReader(mine)}
	if g := no.line(); !strings.Contains(g, `"capabilities": []`) {
		t.Errorf("greeting %s", g)
	}
	no.send(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}`)
	no.expect(generic("Capability oob not available"))
}

func TestServerInput(t *testing.T) {
	w := serve(t, testServer())
	w.negotiate()
	for _, test := range [][2]string{
		{`[]`, generic("QMP input must be a JSON object")},
		{`1 `, generic("QMP input must be a JSON object")},
		{`{}`, generic("QMP input lacks member 'execute'")},
		{`{"id":3}`, `{"id": 3, "error": {"class": "GenericError", "desc": "QMP input lacks member 'execute'"}}`},
		{`{"execute":1}`, generic("QMP input member 'execute' must be a string")},
		{`{"execute":"a","arguments":null}`, generic("QMP input member 'arguments' must be an object")},
		{`{"execute":"a","foo":1}`, generic("QMP input member 'foo' is unexpected")},
		{`{"execute":"a","id":18446744073709551616}`, `{"id": 1.8446744073709552e+19, "error": {"class": "CommandNotFound", "desc": "The command a has not been found"}}`},
		{`{"execute":"é"}`, notFound(`The command \u00E9 has not been found`)},
		{`{"a":1,}`, generic("JSON parse error, expecting value")},
		{"\x01", generic(`JSON parse error, stray '\u0001'`)},
		{`{'execute':'echo','arguments':{'a':'it\'s'}}`, `{"return": {"a": "it's"}}`},
		{`{"execute":"fail"}`, generic("it failed")},
		{`{"execute":"not-active"}`, `{"error": {"class": "DeviceNotActive", "desc": "no device"}}`},
		{`{"execute":"bad"}`, generic("result of bad: json: unsupported type: func()")},
		{`{"execute":"query-name","arguments":{"a":1}}`, generic("Parameter 'a' is unexpected")},
	} {
		w.send(test[0])
		w.expect(test[1])
	}
	w.send(`{"execute":"echo","arguments":{"a":1}}{"execute":"nothing"}` + "\n{\n'execute':\r\n'query-name'\n}")
	w.expect(`{"return": {"a": 1}}`, notFound("The command nothing has not been found"), `{"return": {}}`)
}

func TestServerEvents(t *testing.T) {
	s := testServer()
	a, b, late := serve(t, s), serve(t, s), serve(t, s)
	a.negotiate()
	b.negotiate()
	a.send(`{"execute":"event"}`)
	all := `{"timestamp": {"seconds": 3, "microseconds": 4}, "event": "ALL", "data": {"a": "\u00E9"}}`
	a.expect(all)
	if one := a.line(); !strings.HasSuffix(one, `"event": "ONE"}`+"\r\n") {
		t.Errorf("event %s", one)
	}
	a.expect(`{"return": {}}`)
	b.expect(all)
	late.negotiate() // which is the first thing it hears
	if err := s.Emit(Event{Name: "BAD", Data: json.RawMessage("{")}); err == nil {
		t.Error("bad data was sent")
	}
}

// gate makes a command "wait" that says when it runs and waits to be let go.
func gate(s *Server) (running, release chan struct{}) {
	running, release = make(chan struct{}), make(chan struct{})
	s.Commands["wait"] = Command{Run: func(ctx context.Context, r *Request) (any, error) {
		running <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, nil
	}}
	return running, release
}

func TestServerOOB(t *testing.T) {
	s := testServer()
	running, release := gate(s)
	w := serve(t, s)
	w.send(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}`)
	w.expect(`{"return": {}}`)
	for _, test := range [][2]string{
		{`{"exec-oob":"query-name"}`, generic("The command query-name does not support OOB")},
		{`{"exec-oob":"qmp_capabilities"}`, generic("The command qmp_capabilities does not support OOB")},
		{`{"exec-oob":"a","execute":"b"}`, generic("QMP input member 'execute' clashes with 'exec-oob'")},
		{`{"exec-oob":1}`, generic("QMP input member 'exec-oob' must be a string")},
		{`{"execute":"oob-name"}`, `{"return": {}}`},
	} {
		w.send(test[0])
		w.expect(test[1])
	}
	w.send(`{"execute":"wait","id":1}`)
	<-running
	for i := range queueLength - 1 {
		w.send(fmt.Sprintf(`{"execute":"query-name","id":%d}`, i+2))
	}
	w.send(`{"exec-oob":"oob-name","id":"fast"}`)
	w.expect(`{"return": {}, "id": "fast"}`)
	// The eighth fills the queue, and nothing more is read, out of band or not.
	w.send(`{"execute":"query-name","id":9}{"exec-oob":"oob-name","id":"late"}`)
	w.conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if c, err := w.r.ReadByte(); err == nil {
		t.Errorf("read %c with a full queue", c)
	}
	close(release)
	got := map[string]bool{}
	for range 10 {
		got[w.line()] = true
	}
	for i := range 9 {
		if !got[fmt.Sprintf(`{"return": {}, "id": %d}`+"\r\n", i+1)] {
			t.Errorf("no answer to %d in %v", i+1, got)
		}
	}
}

// TestServerTurns: without out-of-band execution the next command is not even
// looked at, and commands of two clients do not run at the same time.
func TestServerTurns(t *testing.T) {
	s := testServer()
	running, release := gate(s)
	a, b := serve(t, s), serve(t, s)
	a.negotiate()
	b.negotiate()
	a.send(`{"execute":"wait"} {"execute":"query-name","id":1}`)
	<-running
	b.send(`{"execute":"query-name","id":2}`)
	for _, w := range []*wire{a, b} {
		w.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if c, err := w.r.ReadByte(); err == nil {
			t.Errorf("read %c", c)
		}
	}
	close(release)
	a.expect(`{"return": {}}`, `{"return": {}, "id": 1}`)
	b.expect(`{"return": {}, "id": 2}`)
}

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

// TestServerLeave: clients leave at any moment and nothing stays behind.
func TestServerLeave(t *testing.T) {
	s := testServer()
	running, release := gate(s)
	f := tempFile(t, "")
	before := countFDs(t)
	for i := range 40 {
		mine, theirs := pair(t)
		done := make(chan error, 1)
		go func() { done <- s.ServeConn(t.Context(), theirs) }()
		w := &wire{t, mine, bufio.NewReader(mine)}
		w.send(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}`)
		w.send(`{"execute":"wait"}`, f)
		<-running
		if i%2 == 0 {
			w.send(`{"execute":"query-name"}{"execute"`, f)
			w.send(`:`, f, f)
		}
		mine.Close()
		release <- struct{}{}
		if err := <-done; err != nil {
			t.Errorf("ServeConn: %v", err)
		}
	}
	if n := countFDs(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	if len(s.sessions) != 0 {
		t.Errorf("%d sessions left", len(s.sessions))
	}
}

func TestServerEnd(t *testing.T) {
	s := testServer()
	ctx, cancel := context.WithCancel(t.Context())
	s.Commands["quit"] = Command{Run: func(_ context.Context, r *Request) (any, error) {
		r.AfterReply(cancel)
		s.Emit(Event{Name: "SHUTDOWN", Time: time.Unix(1, 0)})
		return nil, nil
	}}
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	events, _ := other.Subscribe()
	if err := c.Execute(t.Context(), "quit", nil, nil); err != nil {
		t.Error(err)
	}
	if e := <-events; e.Name != "SHUTDOWN" {
		t.Errorf("event %+v", e)
	}
	<-c.Done()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
}

func TestServerAllow(t *testing.T) {
	s := testServer()
	var refuse atomic.Bool
	refuse.Store(true)
	s.Allow = func(c *unix.Ucred) error {
		if refuse.Load() || int(c.Uid) != os.Getuid() {
			return errors.New("no")
		}
		return nil
	}
	s.MaxSessions = 1
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { defer wg.Done(); s.Serve(ctx, l) }()
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrClosed) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("refused: %v", err)
	}
	refuse.Store(false)
	before := countFDs(t)
	for range 200 {
		c, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Execute(t.Context(), "query-name", nil, nil); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Dialer{GreetingTimeout: 20 * time.Millisecond}).Dial(t.Context(), path); !errors.As(err, new(*BusyError)) {
		t.Errorf("second client of one: %v", err)
	}
	c.Close()
	cancel()
	wg.Wait()
	if n := countFDs(t); n > before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

// TestServerDeaf: a client that reads nothing stops neither events nor the
// server, and is disconnected when too much waits for it.
func TestServerDeaf(t *testing.T) {
	s := testServer()
	mine, theirs := pair(t)
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(t.Context(), theirs) }()
	w := &wire{t, mine, bufio.NewReader(mine)}
	w.line()
	w.negotiate()
	data, _ := json.Marshal(strings.Repeat("x", 1<<20))
	for range 70 {
		s.Emit(Event{Name: "BIG", Data: data})
	}
	if err := <-done; !errors.Is(err, errDeaf) {
		t.Errorf("ServeConn: %v", err)
	}
}

// TestProxy: a monitor in front of a monitor, in which one command is its own.
func TestProxy(t *testing.T) {
	back := testServer()
	near, far := pair(t)
	go back.ServeConn(t.Context(), far)
	up, err := Dialer{OOB: true}.NewClient(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	front := &Server{Greeting: up.Greeting(), Fallback: up.Forward, Commands: map[string]Command{
		"mine": {Run: func(context.Context, *Request) (any, error) { return json.RawMessage(`{"a":[1]}`), nil }},
	}}
	events, stop := up.Subscribe()
	defer stop()
	go func() {
		for e := range events {
			front.Emit(e)
		}
	}()
	w := serve(t, front)
	w.send(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}`)
	w.expect(`{"return": {}}`)
	f := tempFile(t, "content")
	before := countFDs(t)
	for _, test := range [][2]string{
		{`{"execute":"mine"}`, `{"return": {"a": [1]}}`},
		{`{"execute":"query-name","id":[1]}`, `{"return": {}, "id": [1]}`},
		{`{"execute":"echo","arguments":{"é":1e3},"id":"x"}`, `{"return": {"\u00E9": 1000}, "id": "x"}`},
		{`{"execute":"nothing"}`, notFound("The command nothing has not been found")},
		{`{"execute":"not-active"}`, `{"error": {"class": "DeviceNotActive", "desc": "no device"}}`},
		{`{"exec-oob":"oob-name"}`, `{"return": {}}`},
		{`{"exec-oob":"echo"}`, generic("The command echo does not support OOB")},
		{`{"execute":"query-name","arguments":{"a":1}}`, generic("Parameter 'a' is unexpected")},
	} {
		w.send(test[0])
		w.expect(test[1])
	}
	w.send(`{"execute":"add-fd"}`, f)
	w.expect(`{"return": "content"}`)
	w.send(`{"execute":"add-fd"}`)
	w.expect(generic("No file descriptor supplied via SCM_RIGHTS"))
	w.send(`{"execute":"event"}`)
	got := w.line() + w.line() + w.line()
	if !strings.Contains(got, `{"timestamp": {"seconds": 3, "microseconds": 4}, "event": "ALL", "data": {"a": "\u00E9"}}`) ||
		!strings.Contains(got, `"ONE"`) || !strings.Contains(got, `{"return": {}}`) {
		t.Errorf("got %s", got)
	}
	if n := countFDs(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

// FuzzServer: whatever bytes and descriptors a client sends, in whatever pieces,
// the session ends with it, everything it was told is a line of ASCII and JSON,
// and no descriptor stays.
func FuzzServer(f *testing.F) {
	f.Add([]byte(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"exec-oob":"oob-name"}{"execute":"add-fd","id":1}`), 7)
	f.Add([]byte("{'execute':'qmp_capabilities'}\x01{'execute':'event'}\xff[]{}"), 1)
	f.Add([]byte(`{"execute":"qmp_capabilities"}{"execute":"add-fd","arguments":{"fdset-id":1}}{"execute":"echo","arguments":{"a":[1.5e3,"\u00e9"]}}`), 3)
	file := tempFile(f, "")
	f.Fuzz(func(t *testing.T, input []byte, seed int) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		conns := make([]*net.UnixConn, 2)
		for i, fd := range fds {
			osf := os.NewFile(uintptr(fd), "")
			c, err := net.FileConn(osf)
			if err != nil {
				t.Fatal(err)
			}
			osf.Close()
			conns[i] = c.(*net.UnixConn)
		}
		before := countFDs(t)
		done := make(chan error, 1)
		go func() { done <- testServer().ServeConn(t.Context(), conns[1]) }()
		go func() {
			piece := 1 + seed&15
			for n := 0; len(input) > 0; n++ {
				k := min(piece, len(input))
				var fds []int
				if n%3 == 0 {
					fds = []int{int(file.Fd()), int(file.Fd())}[:1+n%2]
				}
				if sendWithFDs(conns[0], input[:k], fds) != nil {
					return
				}
				input = input[k:]
			}
			conns[0].CloseWrite()
		}()
		out, err := io.ReadAll(conns[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		conns[0].Close()
		if n := countFDs(t); n != before-2 {
			t.Fatalf("%d descriptors left", n-before+2)
		}
		for _, line := range strings.SplitAfter(string(out), "\r\n") {
			if line != "" && (!json.Valid([]byte(line)) || !strings.HasSuffix(line, "\r\n") || strings.IndexFunc(line, func(r rune) bool { return r > 0x7e }) >= 0) {
				t.Fatalf("said %q", line)
			}
		}
	})
}
