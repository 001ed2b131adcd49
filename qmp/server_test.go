// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/internal/sys"
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
	if err := (clientConn{w.conn, sys.Of(nil)}).send([]byte(s), fds); err != nil {
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
	s.Allow = func(c *net.UnixConn) error {
		cred, err := PeerCred(c)
		if err != nil || refuse.Load() || int(cred.Uid) != os.Getuid() {
			return errors.New("not you")
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
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "not you") {
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
