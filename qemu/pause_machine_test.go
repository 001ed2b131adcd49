// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ramjet-vm/ramjet/qmp"
)

// machine is the part of QEMU 10 that a pause deals with: run states, the commands that change them, and their events.
// Each method but execute is what a command of another monitor, or the guest, does.
type machine struct {
	server *qmp.Server // nil for one that nobody is connected to

	mu     sync.Mutex
	status string
	slept  bool // vm_was_suspended
	ended  bool
	moment int      // changes with the guest's memory
	log    []string // the saver's commands
	found  string   // what the saver's stop found
}

func (m *machine) set(status, event string, data ...string) {
	m.status = status
	if m.server == nil {
		return
	}
	e := qmp.Event{Name: event}
	if len(data) > 0 {
		e.Data = []byte(data[0])
	}
	_ = m.server.Emit(e)
}

// halt is do_vm_stop.
func (m *machine) halt(status string) {
	if live(m.status) {
		m.slept = m.status == "suspended"
		m.set(status, "STOP")
	}
}

func (m *machine) stop() { m.halt("paused") }

// cont is qmp_cont, vm_prepare_start.
func (m *machine) cont() error {
	switch {
	case m.status == "shutdown":
		return qmp.Errorf("Resetting the Virtual Machine is required")
	case live(m.status):
		return nil
	}
	m.moment++
	m.set(map[bool]string{false: "running", true: "suspended"}[m.slept], "RESUME")
	m.slept = false
	return nil
}

// reset is main_loop_should_exit.
func (m *machine) reset() {
	m.moment++
	if m.status != "running" {
		m.status = "prelaunch"
	}
	m.slept = false
	m.set(m.status, "RESET", `{"guest": false, "reason": "host-qmp-system-reset"}`)
}

func (m *machine) panic() {
	m.set(m.status, "GUEST_PANICKED", `{"action": "pause"}`)
	m.halt("guest-panicked")
}

func (m *machine) shutdown() {
	m.set(m.status, "SHUTDOWN", `{"guest": true, "reason": "guest-shutdown"}`)
	m.halt("shutdown")
}

// suspend may be asked for before a stop and done after it, since the main loop does both.
func (m *machine) suspend() { m.set("suspended", "SUSPEND") }

// do has somebody else do something.
func (m *machine) do(f func(m *machine)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

// execute is the saver's monitor.
func (m *machine) execute(_ context.Context, r *qmp.Request) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Name != "query-status" {
		m.log = append(m.log, r.Name)
	}
	switch r.Name {
	case "query-status":
		return map[string]any{"status": m.status, "running": m.status == "running"}, nil
	case "stop":
		m.found = m.status
		m.stop()
		return nil, nil
	case "cont":
		return nil, m.cont()
	case "quit":
		m.ended = true
		return nil, nil
	}
	return nil, qmp.Errorf("The command %s has not been found", r.Name)
}

// now is the machine as it is: ended, running or sleeping (both live), or standing.
func (m *machine) now() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ended:
		return "ended"
	case live(m.status):
		return "lives"
	}
	return "stands"
}

func (m *machine) commands() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// newMachine starts one, and attaches to it.
func newMachine(t *testing.T, status string) (*machine, *VM) {
	t.Helper()
	m := &machine{status: status}
	m.server = &qmp.Server{Greeting: qmp.Greeting{Major: 10}, Fallback: m.execute}
	dir, err := os.MkdirTemp("", "pause")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "qmp")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.server.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done; os.RemoveAll(dir) })
	monitor, err := qmp.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	vm := &VM{QMP: monitor, PID: os.Getpid()}
	t.Cleanup(func() { vm.Close() })
	return m, vm
}
