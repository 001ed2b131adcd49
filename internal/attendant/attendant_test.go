// SPDX-License-Identifier: Apache-2.0

package attendant

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/internal/testkit"
)

// echo answers each order with itself, a heartbeat with its argument, and the end of the pipe with a line in its file.
var echo = Kind{Name: "ramjet-test-echo", Run: func(in *Orders) int {
	for {
		order, err := in.Next()
		var v any
		switch {
		case errors.Is(err, ErrLeave):
			return 3
		case errors.Is(err, io.EOF):
			os.NewFile(FirstFile, "file").WriteString("orphaned")
			return 0
		case err != nil:
			return 1
		case len(order) == 0:
			v = os.Args[1]
		case order.Decode(&v) != nil:
			return 2
		}
		_ = Answer(v)
	}
}}

func TestMain(m *testing.M) {
	Main(echo)
	os.Exit(m.Run())
}

// start starts an echo, and returns a file in which it writes at the end of its pipe.
func start(t *testing.T) (*Process, string) {
	t.Helper()
	f, err := os.Create(t.TempDir() + "/file")
	testkit.Check(t, err)
	defer f.Close()
	p, err := echo.Start([]string{"argument"}, f)
	testkit.Check(t, err)
	t.Cleanup(p.Close)
	return p, f.Name()
}

// TestOrders: orders and heartbeats come through, numbers with all their digits, ready or not; the end is told apart
// from the order to leave.
func TestOrders(t *testing.T) {
	t.Parallel()
	for _, ready := range []bool{true, false} {
		p, file := start(t)
		if ready {
			testkit.Check(t, p.Ready())
		}
		testkit.Check(t, p.Order(map[string]any{"n": uint64(1<<64 - 1)}))
		testkit.Check(t, p.Beat())
		var order, beat json.RawMessage
		testkit.Check(t, p.Answer(&order))
		testkit.Check(t, p.Answer(&beat))
		if string(order) != `{"n":18446744073709551615}` || string(beat) != `"argument"` {
			t.Errorf("answers %s, %s", order, beat)
		}
		testkit.Check(t, p.Leave())
		if err := p.Err(); err == nil || p.ExitStatus() != 3 {
			t.Errorf("it ends with %d (%v), not as one that left", p.ExitStatus(), err)
		}
		if p.Leave() == nil || p.Beat() == nil {
			t.Error("one that has left takes orders")
		}
		if b, _ := os.ReadFile(file); len(b) > 0 {
			t.Errorf("one that was to leave wrote %q", b)
		}
	}
}

// TestOrphan: the end of the pipe without leave; signals that end other programs do not matter.
func TestOrphan(t *testing.T) {
	t.Parallel()
	p, file := start(t)
	testkit.Check(t, p.Ready())
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE} {
		testkit.Check(t, p.cmd.Process.Signal(s))
	}
	p.Close()
	testkit.Check(t, p.Err())
	if b, _ := os.ReadFile(file); string(b) != "orphaned" {
		t.Errorf("it wrote %q", b)
	}
}

// TestStopped: who gives orders does not wait for an attendant that was stopped.
func TestStopped(t *testing.T) {
	t.Parallel()
	p, _ := start(t)
	testkit.Check(t, p.Ready())
	testkit.Check(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	defer p.cmd.Process.Signal(syscall.SIGKILL)
	began := time.Now()
	testkit.Check(t, p.Order(string(bytes.Repeat([]byte{'x'}, maxOrder/2))))
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("an order took %v", d)
	}
}

// TestUnregistered: a program whose main does not call Main is told so, and not started again and again.
func TestUnregistered(t *testing.T) {
	t.Parallel()
	_, err := Kind{Name: "ramjet-test-unknown"}.Start(nil)
	if err == nil || !strings.Contains(err.Error(), "RunAttendant") {
		t.Errorf("%v", err)
	}
}
