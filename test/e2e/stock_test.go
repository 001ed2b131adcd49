// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// ways are what QEMU's own migration to and from a file can be told.
type ways struct {
	multifd, direct bool
	offset          int64
}

func (w ways) String() string {
	s := "plain"
	if w.multifd {
		s = "multifd"
	}
	if w.direct {
		s += " direct"
	}
	if w.offset != 0 {
		s += fmt.Sprintf(" at %d", w.offset)
	}
	return s
}

// set sets a monitor's migration up for a mapped-ram file.
func (w ways) set(t *testing.T, m *qmp.Client) {
	t.Helper()
	capability := func(name string, on bool) map[string]any { return map[string]any{"capability": name, "state": on} }
	do(t, m.Execute(t.Context(), "migrate-set-capabilities", map[string]any{
		"capabilities": []any{capability("mapped-ram", true), capability("multifd", w.multifd)},
	}, nil))
	params := map[string]any{"direct-io": w.direct, "max-bandwidth": 0, "multifd-channels": 3}
	do(t, m.Execute(t.Context(), "migrate-set-parameters", params, nil))
}

func (w ways) uri(path string) string {
	if w.offset != 0 {
		return fmt.Sprintf("file:%s,offset=%d", path, w.offset)
	}
	return "file:" + path
}

// migrated waits for the end of a monitor's migration and returns its status and what QEMU says of it.
func migrated(t *testing.T, m *qmp.Client) (status, why string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var s struct {
			Status string
			Error  string `json:"error-desc"`
		}
		do(t, m.Execute(t.Context(), "query-migrate", nil, &s))
		switch s.Status {
		case "completed", "failed", "cancelled":
			return s.Status, s.Error
		}
	}
	t.Fatal("the migration does not end")
	return "", ""
}

// migrate has a VM's QEMU write an image by itself.
func migrate(t *testing.T, v *vm.VM, path string, w ways) {
	t.Helper()
	m, err := qmp.Dial(t.Context(), v.QMP)
	do(t, err)
	defer m.Close()
	w.set(t, m)
	do(t, m.Execute(t.Context(), "migrate", map[string]any{"uri": w.uri(path)}, nil))
	if s, why := migrated(t, m); s != "completed" {
		t.Fatalf("QEMU's own save %s: %s", s, why)
	}
}

// load starts a stock QEMU like v in a new directory and has it load an image. The guest may run then, or not.
func load(t *testing.T, v *vm.VM, path string, w ways) *vm.VM {
	t.Helper()
	dir := directory(t)
	var stderr bytes.Buffer
	c := exec.Command(v.Program, append(v.ArgsIn(dir), "-incoming", "defer")...)
	c.Stderr = &stderr
	do(t, c.Start())
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGKILL)
		c.Wait()
		if t.Failed() {
			t.Logf("stock QEMU said: %s", &stderr)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(vm.SerialIn(dir)); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("stock QEMU does not start: %s", &stderr)
		}
	}
	m, err := qmp.Dial(t.Context(), vm.QMPIn(dir))
	do(t, err)
	w.set(t, m)
	do(t, m.Execute(t.Context(), "migrate-incoming", map[string]any{"uri": w.uri(path)}, nil))
	s, why := migrated(t, m)
	do(t, m.Close())
	if s != "completed" {
		t.Fatalf("stock QEMU's load %s: %s", s, why)
	}
	g, err := vm.Connect(t.Context(), vm.SerialIn(dir), vm.QMPIn(dir))
	do(t, err)
	return g
}
