// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the ramjet program from outside: real QEMU, a real Linux guest that checks its
// own memory, the command line as a user types it.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// program is the ramjet under test.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ramjet-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = vm.BuildRamjet(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// outcome is how a ramjet ended.
type outcome struct {
	out, err string
	status   int
}

// ramjet runs the program to its end.
func ramjet(t *testing.T, args ...string) outcome {
	t.Helper()
	var out, stderr bytes.Buffer
	c := exec.Command(program, args...)
	c.Stdout, c.Stderr = &out, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{out.String(), stderr.String(), c.ProcessState.ExitCode()}
}

// must runs the program, which has to succeed silently, and reads its JSON result.
func must[T any](t *testing.T, args ...string) T {
	t.Helper()
	o := ramjet(t, append(args, "--json")...)
	var v T
	if o.status != 0 || o.err != "" {
		t.Fatalf("ramjet %s: status %d, says %q", strings.Join(args, " "), o.status, o.err)
	}
	if err := json.Unmarshal([]byte(o.out), &v); err != nil {
		t.Fatalf("ramjet %s: result %q: %v", strings.Join(args, " "), o.out, err)
	}
	return v
}

// refused runs the program, which has to fail with this status and one line that holds all of the words.
func refused(t *testing.T, status int, words []string, args ...string) outcome {
	t.Helper()
	o := ramjet(t, args...)
	if o.status != status {
		t.Errorf("ramjet %s: status %d, want %d; says %q", strings.Join(args, " "), o.status, status, o.err)
	}
	if !strings.HasPrefix(o.err, "ramjet: ") || strings.Count(o.err, "\n") != 1 {
		t.Errorf("ramjet %s: says %q, want one line", strings.Join(args, " "), o.err)
	}
	for _, w := range words {
		if !strings.Contains(o.err, w) {
			t.Errorf("ramjet %s: says %q, want %q in it", strings.Join(args, " "), o.err, w)
		}
	}
	return o
}

// saveVM saves v with ramjet.
func saveVM(t *testing.T, v *vm.VM, image string, flags ...string) *save.Result {
	t.Helper()
	r := must[save.Result](t, append([]string{"save", "--qmp", v.QMP, image}, flags...)...)
	if s := r.Times; !allOf(r.DurableSeconds, s.Attach+s.DeviceState+s.Memory+s.Complete+s.Sync+s.Publish) || s.Scan+s.Write > s.Memory {
		t.Errorf("the times do not add up to %.3f s: %+v", r.DurableSeconds, s)
	}
	if r.IOWhy == "" {
		t.Errorf("%s I/O, and not why", r.IO)
	}
	t.Logf("saved %d MiB, pause %.3f s, durable %.3f s, %s %s", r.BytesStored>>20, r.PauseSeconds, r.DurableSeconds, r.Engine, r.IO)
	return &r
}

// allOf reports whether parts are all of a time but for what nobody measures: stopping the VM, letting it go on.
func allOf(whole, parts float64) bool { return parts <= whole && parts > whole*0.6-0.05 }

// restoreVM restores an image with v's arguments in a directory of its own, and attaches to the guest.
func restoreVM(t *testing.T, v *vm.VM, image string, flags ...string) (*vm.VM, restore.Result) {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"restore", "--detach", image}, flags...)
	args = append(append(args, "--json", "--"), append([]string{v.Program}, v.ArgsIn(dir)...)...)
	o := ramjet(t, args...)
	var r restore.Result
	if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
		t.Fatalf("ramjet %s: status %d, says %q, %q", strings.Join(args, " "), o.status, o.out, o.err)
	}
	if eager := r.Mode == restore.Eager; eager != (r.IOWhy != "") || eager != (r.IO != "") {
		t.Errorf("%s, with %q I/O because %q", r.Mode, r.IO, r.IOWhy)
	}
	t.Logf("running after %.3f s, of which load %.3f s (%s)", r.RunningSeconds, r.LoadSeconds, r.Mode)
	return vm.RunAttached(t, vm.SerialIn(dir), vm.QMPIn(dir)), r
}

// whole has the guest check its memory.
func whole(t *testing.T, v *vm.VM) vm.Checked {
	t.Helper()
	c, err := v.Check()
	if err != nil {
		t.Fatal(err)
	}
	if c.Wrong != 0 || c.Pages == 0 {
		t.Fatalf("the guest says of its memory: %v", c)
	}
	return c
}

// count is the guest's counter.
func count(t *testing.T, v *vm.VM) uint64 {
	t.Helper()
	n, err := v.Count()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
