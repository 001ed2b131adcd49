// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// runStates are the names that QEMU has for what a VM does (qapi/run-state.json), of every version since 8.0.
var runStates = []string{
	"debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate", "prelaunch", "finish-migrate", "restore-vm", "running",
	"save-vm", "shutdown", "suspended", "watchdog", "guest-panicked", "colo",
}

// TestRunStates has stock QEMU load an image that says each of the run states, with a guest that sleeps and with one that does not,
// and let the VM go on: it aborts, or stands for ever, exactly where vmstate.Loadable says so. Such images Ramjet refuses.
func TestRunStates(t *testing.T) {
	machine := []string{"-machine", "pc", "-m", "8M", "-S"}
	b := startBare(t, machine...)
	image := b.dir + "/image"
	(ways{}).set(t, b.monitor)
	b.run(t, "migrate", map[string]any{"uri": "file:" + image}, nil)
	if s, why := migrated(t, b.monitor); s != "completed" {
		t.Fatal(s, why)
	}
	for _, state := range runStates {
		for _, asleep := range []bool{false, true} {
			sayState(t, image, state, asleep)
			if goesOn := goesOn(t, image, machine); goesOn != vmstate.Loadable(state, asleep || state == "suspended") {
				t.Errorf("%s, asleep %v: QEMU goes on from there: %v", state, asleep, goesOn)
			}
		}
	}
	sayState(t, image, "debug", false)
	refused(t, 1, []string{image, "debug"}, append([]string{"restore", "--detach", image, "--"}, machine...)...)
	if o := ramjet(t, "inspect", image); o.status != 0 || !strings.Contains(o.out, "was debug") || !strings.Contains(o.out, "not restorable") {
		t.Errorf("inspect says %s %s", o.out, o.err)
	}
}

// sayState changes what an image without a seal says of its VM.
func sayState(t *testing.T, path, state string, asleep bool) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	do(t, err)
	defer f.Close()
	st, err := f.Stat()
	do(t, err)
	m, err := mappedram.Open(f, st.Size())
	do(t, err)
	sections, err := m.DeviceSections()
	do(t, err)
	do(t, vmstate.SetRunState(sections, state))
	const nameSize = 32 // of the name, behind which two bytes say that the guest sleeps (migration/global_state.c)
	at := strings.Index(string(sections), state+"\x00") + nameSize
	sections[at], sections[at+1] = 1, 0
	if asleep {
		sections[at+1] = 1
	}
	_, err = f.WriteAt(sections, m.SectionsOffset)
	do(t, err)
}

// goesOn has a new QEMU load an image and reports whether it can go on then: where it has to be reset first, it stands well.
func goesOn(t *testing.T, image string, machine []string) bool {
	t.Helper()
	b := startBare(t, append(machine, "-incoming", "defer")...)
	(ways{}).set(t, b.monitor)
	b.run(t, "migrate-incoming", map[string]any{"uri": "file:" + image}, nil)
	for {
		var m struct{ Status string }
		if b.monitor.Execute(t.Context(), "query-migrate", nil, &m) != nil {
			return false
		}
		if m.Status == "completed" {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	// The state is taken up a moment after the migration is completed (process_incoming_migration_bh).
	var s struct{ Status string }
	for range 25 {
		if b.monitor.Execute(t.Context(), "query-status", nil, &s) != nil {
			return false
		}
		if s.Status != "inmigrate" {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if s.Status == "shutdown" || s.Status == "internal-error" {
		return true
	}
	if b.monitor.Execute(t.Context(), "cont", nil, nil) != nil || b.monitor.Execute(t.Context(), "query-status", nil, &s) != nil {
		return false
	}
	return s.Status == "running" || s.Status == "suspended"
}

// TestBreakpoint saves a VM that stands at a breakpoint of gdb's: it stays there, and its image is of a VM that is paused, since
// no QEMU loads the state debug.
func TestBreakpoint(t *testing.T) {
	dir := directory(t)
	machine := []string{"-machine", "pc", "-m", "16M"}
	b := startBare(t, append(machine, "-chardev", "socket,id=gdb,path="+dir+"/gdb,server=on,wait=off", "-gdb", "chardev:gdb")...)
	gdb, err := net.Dial("unix", dir+"/gdb")
	do(t, err)
	defer gdb.Close()
	for deadline := time.Now().Add(10 * time.Second); b.status(t) == "running"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("gdb does not stop the VM")
		}
	}
	fmt.Fprint(gdb, "+$s#73") // a single step
	for deadline := time.Now().Add(10 * time.Second); b.status(t) != "debug"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a single step the VM is %s", b.status(t))
		}
	}
	image := dir + "/image"
	must[save.Result](t, "save", "--qmp", b.socket, image)
	refused(t, 1, []string{"debug", "--engine=ramjet"}, "save", "--qmp", b.socket, "--engine=qemu", dir+"/other")
	if s := b.status(t); s != "debug" {
		t.Errorf("after the save the VM is %s", s)
	}
	if o := ramjet(t, "inspect", image); !strings.Contains(o.out, "was paused") || strings.Contains(o.out, "not restorable") {
		t.Errorf("inspect says %s", o.out)
	}
	for _, mode := range []string{"instant", "eager"} {
		args := append([]string{"restore", "--detach", "--mode", mode, "--qmp", dir + "/" + mode, image, "--"}, machine...)
		o := ramjet(t, append(args, "-nodefaults", "-display", "none")...)
		if o.status != 0 || !strings.HasPrefix(o.out, "loaded (paused) after ") {
			t.Fatalf("restore %s says %q %q", mode, o.out, o.err)
		}
		execute(t, dir+"/"+mode, "cont", nil, nil)
		execute(t, dir+"/"+mode, "quit", nil, nil)
	}
}
