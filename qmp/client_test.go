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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greetingLine = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\r\n"

// pair returns the two ends of a connected socket.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

// script is a monitor that answers each command by what its function returns
// and can be made to do everything that a monitor should not.
type script struct {
	t    *testing.T
	conn *net.UnixConn
	r    *bufio.Reader
}

type scriptCommand struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
}

func (s *script) next() (scriptCommand, error) {
	var c scriptCommand
	line, err := s.r.ReadBytes('\n')
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(line, &c)
}

func (s *script) say(format string, args ...any) {
	fmt.Fprintf(s.conn, format+"\r\n", args...)
}

// connect returns a client that has negotiated with the script play, which runs
// until it returns.
func connect(t *testing.T, play func(s *script)) *Client {
	t.Helper()
	mine, theirs := pair(t)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		s := &script{t, theirs, bufio.NewReader(theirs)}
		// What a former client left: the answer to its last command.
		io.WriteString(theirs, `{"return": {}, "id": 1}`+"\r\n"+greetingLine+`{"return": [], "id": 1}`+"\r\n")
		c, err := s.next()
		if err != nil || c.Execute != "qmp_capabilities" {
			t.Errorf("first command %+v, %v", c, err)
			return
		}
		s.say(`{"return": {}, "id": %s}`, c.ID)
		play(s)
	}()
	c, err := NewClient(t.Context(), mine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); theirs.Close(); wg.Wait() })
	return c
}

func TestClientExecute(t *testing.T) {
	c := connect(t, func(s *script) {
		for {
			k, err := s.next()
			if err != nil {
				return
			}
			switch k.Execute {
			case "echo":
				s.say(`{"event": "SOON", "timestamp": {"seconds": 1, "microseconds": 2}}`)
				s.say(`{"return": %s, "id": %s}`, k.Arguments, k.ID)
			case "refuse":
				s.say(`{"id": %s, "error": {"class": "DeviceNotFound", "desc": "no such device"}}`, k.ID)
			case "unparsable":
				s.say(`{"error": {"class": "GenericError", "desc": "JSON parse error"}}`)
			case "long":
				s.say(`{"return": "%s", "id": %s}`, strings.Repeat("x", 3<<20), k.ID)
			}
		}
	})
	if g := c.Greeting(); g.Major != 10 || g.Minor != 0 || g.Micro != 2 || g.Package != "Debian" || len(g.Capabilities) != 1 {
		t.Errorf("greeting %+v", g)
	}
	ctx := t.Context()
	var got struct{ A int }
	if err := c.Execute(ctx, "echo", map[string]int{"A": 7}, &got); err != nil || got.A != 7 {
		t.Errorf("echo: %v, %v", got, err)
	}
	var qe *Error
	if err := c.Execute(ctx, "refuse", nil, nil); !errors.As(err, &qe) || qe.Class != DeviceNotFound || qe.Desc != "no such device" {
		t.Errorf("refuse: %v", err)
	}
	if err := c.Execute(ctx, "unparsable", nil, nil); !errors.As(err, &qe) || qe.Desc != "JSON parse error" {
		t.Errorf("unparsable: %v", err)
	}
	var s string
	if err := c.Execute(ctx, "long", nil, &s); err != nil || len(s) != 3<<20 {
		t.Errorf("long: %d bytes, %v", len(s), err)
	}
	var n int
	if err := c.Execute(ctx, "echo", "text", &n); err == nil || !strings.Contains(err.Error(), "unexpected answer to echo") {
		t.Errorf("wrong result type: %v", err)
	}
	if err := c.Execute(ctx, "echo", func() {}, nil); err == nil {
		t.Error("a function was marshalled")
	}
}

func TestClientConcurrent(t *testing.T) {
	c := connect(t, func(s *script) {
		for {
			var ks []scriptCommand
			for range 4 { // answer four at a time, in the wrong order
				k, err := s.next()
				if err != nil {
					return
				}
				ks = append([]scriptCommand{k}, ks...)
			}
			for _, k := range ks {
				s.say(`{"return": %s, "id": %s}`, k.Arguments, k.ID)
			}
		}
	})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range 100 {
				var got [2]int
				if err := c.Execute(t.Context(), "echo", [2]int{i, j}, &got); err != nil || got != [2]int{i, j} {
					t.Errorf("%d, %d: %v, %v", i, j, got, err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func TestClientCancel(t *testing.T) {
	release := make(chan struct{})
	c := connect(t, func(s *script) {
		first, _ := s.next()
		<-release
		s.say(`{"return": {}, "id": %s}`, first.ID)
		k, _ := s.next()
		s.say(`{"return": 5, "id": %s}`, k.ID)
		s.next()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v", err)
	}
	// A command larger than the socket's buffer while the monitor does not read:
	// the writer is stuck, and callers are still let go.
	big := strings.Repeat("x", 4<<20)
	ctx2, cancel2 := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel2()
	if err := c.Execute(ctx2, "big", big, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("big: %v", err)
	}
	ctx4, cancel4 := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel4()
	if err := c.Execute(ctx4, "unsent", nil, nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "was not sent") {
		t.Errorf("unsent: %v", err)
	}
	close(release)
	// big is read now and answered with 5 to nobody; this one is left without
	// an answer, but it goes out, which is what counts.
	ctx3, cancel3 := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel3()
	if err := c.Execute(ctx3, "after", nil, nil); errors.Is(err, ErrClosed) {
		t.Errorf("after: %v", err)
	}
}

func TestClientLost(t *testing.T) {
	c := connect(t, func(s *script) {
		s.next()
		s.conn.Close()
	})
	events, _ := c.Subscribe()
	err := c.Execute(t.Context(), "quit", nil, nil)
	if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "went away") {
		t.Errorf("got %v", err)
	}
	if _, ok := <-events; ok {
		t.Error("subscription still open")
	}
	if err := c.Execute(t.Context(), "again", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("again: %v", err)
	}
	late, cancel := c.Subscribe()
	if _, ok := <-late; ok {
		t.Error("late subscription open")
	}
	cancel()
	select {
	case <-c.Done():
	default:
		t.Error("Done is open")
	}
}

// TestClientQuit: the answer comes together with the end of the connection, and
// the answer wins.
func TestClientQuit(t *testing.T) {
	for range 50 {
		c := connect(t, func(s *script) {
			k, _ := s.next()
			s.say(`{"return": {}, "id": %s}`, k.ID)
			s.conn.Close()
		})
		if err := c.Execute(t.Context(), "quit", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClientEvents(t *testing.T) {
	const n = EventQueue + 44
	c := connect(t, func(s *script) {
		k, _ := s.next()
		for i := range n {
			s.say(`{"timestamp": {"seconds": 1700000000, "microseconds": 5}, "event": "TICK", "data": {"n": %d}}`, i)
			s.say(`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "TOCK"}`)
		}
		s.say(`{"return": {}, "id": %s}`, k.ID)
		s.next()
	})
	ticks, stop := c.Subscribe("TICK")
	defer stop()
	none, stopNone := c.Subscribe()
	stopNone()
	stopNone()
	if err := c.Execute(t.Context(), "go", nil, nil); err != nil {
		t.Fatal(err)
	}
	var e Event
	for i := range EventQueue {
		e = <-ticks
		var d struct{ N int }
		if json.Unmarshal(e.Data, &d); d.N != i+n-EventQueue || e.Name != "TICK" || !e.Time.Equal(time.Unix(1700000000, 5000)) {
			t.Fatalf("event %d is %+v, %s", i, e, e.Data)
		}
	}
	if e.Dropped != n-EventQueue {
		t.Errorf("%d dropped, want %d", e.Dropped, n-EventQueue)
	}
	if _, ok := <-none; ok {
		t.Error("an event after the end of the subscription")
	}
}

func TestClientDescriptors(t *testing.T) {
	var got []int
	c := connect(t, func(s *script) {
		buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*16))
		n, oobn, _, _, err := s.conn.ReadMsgUnix(buf, oob)
		if err != nil || !strings.HasPrefix(string(buf[:n]), `{"execute":"add-fd","arguments":{"fdset-id":3,"opaque":"me"}`) {
			t.Errorf("%q, %v", buf[:n], err)
		}
		msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range msgs {
			fds, _ := unix.ParseUnixRights(&m)
			got = append(got, fds...)
		}
		_, id, _ := strings.Cut(string(buf[:n]), `"id":`)
		s.say(`{"return": {"fdset-id": 3, "fd": 19}, "id": %s}`, strings.TrimRight(id, "}\r\n"))
		s.next()
	})
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := c.AddFD(t.Context(), 3, "me", f)
	if err != nil || fd != 19 {
		t.Fatalf("%d, %v", fd, err)
	}
	if len(got) != 1 {
		t.Fatalf("descriptors %v", got)
	}
	var a, b unix.Stat_t
	unix.Fstat(got[0], &a)
	unix.Stat("/dev/null", &b)
	if a.Rdev != b.Rdev {
		t.Error("another file arrived")
	}
	closeAll(got)

	many := make([]*os.File, MaxFiles+1)
	for i := range many {
		many[i] = f
	}
	if err := c.Execute(t.Context(), "x", nil, nil, many...); err == nil || !strings.Contains(err.Error(), "17 are too many") {
		t.Errorf("17 descriptors: %v", err)
	}
	f.Close()
	if err := c.Execute(t.Context(), "x", nil, nil, f); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed file: %v", err)
	}
}

func TestClientFile(t *testing.T) {
	c := connect(t, func(s *script) { s.next() })
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags 0x%x, %v: the connection was set to blocking", flags, err)
	}
	pid, err := c.PeerPID()
	if err != nil || pid != os.Getpid() {
		t.Errorf("pid %d, %v", pid, err)
	}
}

func TestDialErrors(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if _, err := Dial(t.Context(), path("none")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "there is no monitor socket") {
		t.Errorf("missing: %v", err)
	}
	os.WriteFile(path("file"), nil, 0o666)
	if _, err := Dial(t.Context(), path("file")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("plain file: %v", err)
	}
	if _, err := Dial(t.Context(), path(strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "Linux allows 107") {
		t.Errorf("long path: %v", err)
	}
	if err := dialError("p", syscall.EACCES); !errors.Is(err, os.ErrPermission) {
		t.Errorf("EACCES: %v", err)
	}

	// A listener that never accepts, with QEMU's backlog: the first clients
	// connect and hear nothing, later ones are turned away.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path("busy")}); err != nil {
		t.Fatal(err)
	}
	unix.Listen(fd, 0)
	for _, want := range []string{"no greeting within 10ms", "other clients are waiting"} {
		_, err := Dialer{GreetingTimeout: 10 * time.Millisecond}.Dial(t.Context(), path("busy"))
		var busy *BusyError
		if !errors.As(err, &busy) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "second -qmp socket") {
			t.Errorf("busy: %v, want %s", err, want)
		}
	}
}

func TestGreetingErrors(t *testing.T) {
	for said, want := range map[string]string{
		"":                           "hung up without a greeting",
		"QEMU 10.0.2 monitor\r\n":    "does not speak QMP",
		`{"arguments": {}}` + "\r\n": "does not speak QMP",
		greetingLine + "nonsense\n":  "negotiating with the monitor: qmp_capabilities: monitor connection closed",
	} {
		mine, theirs := pair(t)
		io.WriteString(theirs, said)
		theirs.CloseWrite()
		if _, err := NewClient(t.Context(), mine); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", said, err)
		}
	}
	mine, _ := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewClient(ctx, mine); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestMessageTooLong(t *testing.T) {
	long := io.MultiReader(strings.NewReader(`{"return": "`), io.LimitReader(letters{}, MaxMessage+1<<20))
	if _, err := newMessageReader(long).next(); !errors.Is(err, errLong) {
		t.Errorf("got %v", err)
	}
}

// TestMessages reads messages however they are laid out, and after long ones, whose buffers are given up.
func TestMessages(t *testing.T) {
	long := strings.Repeat("x", 3*keptBuffer)
	pretty := "{\r\n    \"return\": {\r\n        \"a\": \"" + long + "\"\r\n    },\r\n    \"id\": 7\r\n}\r\n"
	flat := `{"event": "E"}` + "\r\n"
	for _, chunk := range []int{1 << 20, 4096, 7} {
		r := newMessageReader(slowly{strings.NewReader(strings.Repeat(pretty+flat+flat, 4)), chunk})
		for i := range 12 {
			m, err := r.next()
			if err != nil {
				t.Fatal(i, err)
			}
			if answer := string(m.ID) == "7" && strings.Contains(string(m.Return), long); answer != (i%3 == 0) || (m.Event == "E") == answer {
				t.Fatalf("message %d in reads of %d bytes is %.100q", i, chunk, m.Return)
			}
		}
		if _, err := r.next(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

// slowly reads a few bytes at a time.
type slowly struct {
	r io.Reader
	n int
}

func (s slowly) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.n)]) }

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
