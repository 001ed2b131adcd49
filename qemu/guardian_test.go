// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/qmp"
)

func TestMain(m *testing.M) {
	attendant.Main(Guardian, Leash)
	os.Exit(m.Run())
}

// TestGuardianReads: the guardian begins to read anywhere in what the monitor says, on one line each or on many.
func TestGuardianReads(t *testing.T) {
	for name, said := range map[string]string{
		"flat":             `{"return": {"a": {}}, "id": 1}` + "\r\n" + `{"event": "STOP"}` + "\r\n",
		"flat, cut off":    `turn": {"b": 1}, "id": 0}` + "\r\n" + `{"return": {"a": {}}, "id": 1}` + "\r\n" + `{"event": "STOP"}` + "\r\n",
		"pretty":           "{\r\n    \"return\": {\r\n        \"a\": {}\r\n    },\r\n    \"id\": 1\r\n}\r\n{\r\n    \"event\": \"STOP\"\r\n}\r\n",
		"pretty, cut off":  "urn\": {\r\n    },\r\n    \"id\": 0\r\n}\r\n{\r\n    \"return\": {\r\n    },\r\n    \"id\": 1\r\n}\r\n{\r\n    \"event\": \"STOP\"\r\n}\r\n",
		"pretty, at a key": "    \"id\": 0\r\n}\r\n{\r\n    \"return\": {\r\n    },\r\n    \"id\": 1\r\n}\r\n{\r\n    \"event\": \"STOP\"\r\n}\r\n",
	} {
		m := &lastMonitor{in: bufio.NewReader(strings.NewReader(said))}
		for _, want := range []string{`"id": 1`, `"STOP"`} {
			if b, err := m.message(); err != nil || !strings.Contains(string(b), want) {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		}
	}
}

// TestGuardianFiles has the guardian remove the file that was named when it started, wherever its directory is by now,
// and no other that is named in its orders: who gives them may have been taken over. (Issue 15, point 18.)
func TestGuardianFiles(t *testing.T) {
	ours, theirs := connected(t)
	go func() {
		fmt.Fprintln(theirs, `{"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""}, "capabilities": []}}`)
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			var c struct{ ID any }
			if json.Unmarshal(bytes.TrimLeft(lines.Bytes(), "\xff"), &c) == nil {
				answer, _ := json.Marshal(map[string]any{"return": map[string]any{}, "id": c.ID})
				fmt.Fprintf(theirs, "%s\r\n", answer)
			}
		}
	}()
	monitor, err := qmp.Dialer{}.NewClient(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	before, after := filepath.Join(t.TempDir(), "images"), filepath.Join(t.TempDir(), "moved")
	if err := os.Mkdir(before, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"unfinished", "other"} {
		if err := os.WriteFile(filepath.Join(before, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	vm := &VM{QMP: monitor, PID: os.Getpid()}
	g, err := vm.startGuardian(filepath.Join(before, "unfinished"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(before, after); err != nil {
		t.Fatal(err)
	}
	if err := g.Order(map[string]any{"files": []string{filepath.Join(after, "other")}}); err != nil {
		t.Fatal(err)
	}
	monitor.Close()
	g.abandon(10 * time.Second)
	if _, err := os.Stat(filepath.Join(after, "unfinished")); err == nil {
		t.Error("the unfinished file is there")
	}
	if _, err := os.Stat(filepath.Join(after, "other")); err != nil {
		t.Error(err)
	}
}

// connected is a connection of Unix sockets.
func connected(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	a, f, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); c.Close() })
	return a, c.(*net.UnixConn)
}
