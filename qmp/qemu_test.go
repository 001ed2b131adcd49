// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startQEMU runs a QEMU without a guest and returns its monitor's socket and its
// process id. The test is skipped where there is no QEMU.
func startQEMU(t *testing.T) (path string, pid int) {
	t.Helper()
	return startQEMUWith(t, "-qmp")
}

// startQEMUWith is startQEMU with another option for the monitor.
func startQEMUWith(t *testing.T, monitor string) (path string, pid int) {
	t.Helper()
	bin, err := exec.LookPath(cmp.Or(os.Getenv("RAMJET_QEMU"), "qemu-system-x86_64"))
	if err != nil {
		t.Skip("no qemu-system-x86_64 in PATH")
	}
	path = filepath.Join(t.TempDir(), "qmp")
	cmd := exec.Command(bin, "-machine", "none", "-display", "none", "-nodefaults",
		monitor, "unix:"+path+",server=on,wait=off")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if errs.Len() > 0 {
			t.Logf("QEMU: %s", errs.String())
		}
	})
	for range 500 {
		if _, err := os.Stat(path); err == nil {
			return path, cmd.Process.Pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("QEMU made no socket")
	return "", 0
}

// dialRetry waits for QEMU to listen: the socket's file exists a moment earlier.
func dialRetry(t *testing.T, path string) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		c, err := Dial(ctx, path)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestQEMU(t *testing.T) {
	path, pid := startQEMU(t)
	c := dialRetry(t, path)
	ctx := t.Context()
	if g := c.Greeting(); g.Major < 9 {
		t.Errorf("greeting %+v", g)
	}
	if p, err := c.PeerPID(); err != nil || p != pid {
		t.Errorf("pid %d, %v, want %d", p, err, pid)
	}
	var busy *BusyError
	if _, err := (Dialer{GreetingTimeout: 50 * time.Millisecond}).Dial(ctx, path); !errors.As(err, &busy) {
		t.Errorf("second client: %v", err)
	}
	var schema []json.RawMessage
	if err := c.Execute(ctx, "query-qmp-schema", nil, &schema); err != nil || len(schema) < 500 {
		t.Errorf("schema: %d entries, %v", len(schema), err)
	}
	if s, err := c.Human(ctx, "info name"); err != nil || strings.Contains(s, "unknown command") {
		t.Errorf("info name: %q, %v", s, err)
	}
	var qe *Error
	if err := c.Execute(ctx, "nothing", nil, nil); !errors.As(err, &qe) || qe.Class != CommandNotFound {
		t.Errorf("unknown command: %v", err)
	}
	if err := c.Execute(ctx, "human-monitor-command", json.RawMessage(`{"command-line":"\ud800"}`), nil); !errors.As(err, &qe) || !strings.Contains(qe.Desc, "JSON parse error") {
		t.Errorf("half a surrogate pair: %v", err)
	}
	checkSets(t, c)

	events, _ := c.Subscribe("SHUTDOWN")
	if err := c.Execute(ctx, "quit", nil, nil); err != nil {
		t.Errorf("quit: %v", err)
	}
	for e := range events {
		if e.Name != "SHUTDOWN" || time.Since(e.Time) > time.Minute {
			t.Errorf("event %+v", e)
		}
	}
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after quit: %v", err)
	}
}

// checkSets passes many descriptors, some commands at a time, and looks whether
// each arrived in its set.
func checkSets(t *testing.T, c *Client) {
	t.Helper()
	ctx := t.Context()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const n = 32
	errc := make(chan error, n)
	for i := range n {
		go func() {
			_, err := c.AddFD(ctx, int64(i), strings.Repeat("o", i), f)
			errc <- err
		}()
	}
	for range n {
		if err := <-errc; err != nil {
			t.Fatal(err)
		}
	}
	sets, err := c.QueryFDSets(ctx)
	if err != nil || len(sets) != n {
		t.Fatalf("%d sets, %v", len(sets), err)
	}
	for _, s := range sets {
		if len(s.FDs) != 1 || len(s.FDs[0].Opaque) != int(s.ID) {
			t.Errorf("set %+v", s)
		}
		if s.ID%2 == 0 {
			err = c.RemoveFDSet(ctx, s.ID)
		} else {
			err = c.RemoveFD(ctx, s.ID, s.FDs[0].FD)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if sets, err := c.QueryFDSets(ctx); err != nil || len(sets) != 0 {
		t.Errorf("left %+v, %v", sets, err)
	}
}

// TestQEMUPretty: a monitor made with -qmp-pretty writes a message on many lines.
func TestQEMUPretty(t *testing.T) {
	path, _ := startQEMUWith(t, "-qmp-pretty")
	c := dialRetry(t, path)
	if g := c.Greeting(); g.Major < 9 {
		t.Errorf("greeting %+v", g)
	}
	var schema []json.RawMessage
	if err := c.Execute(t.Context(), "query-qmp-schema", nil, &schema); err != nil || len(schema) < 100 {
		t.Errorf("a schema of %d parts, %v", len(schema), err)
	}
	events, end := c.Subscribe("STOP")
	defer end()
	if err := c.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Name != "STOP" || e.Time.IsZero() {
		t.Errorf("event %+v", e)
	}
}
