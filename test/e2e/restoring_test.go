// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestForeground restores without --detach: ramjet stays as QEMU would, and ends as it does.
func TestForeground(t *testing.T) {
	v := boot(t, vm.Config{Memory: "256M", Fill: 20})
	image, _ := saveOf(t, v)
	do(t, v.Kill())
	run := func(t *testing.T) (*running, *vm.VM) {
		dir := directory(t)
		r := start(t, append([]string{"restore", image, "--", v.Program}, v.ArgsIn(dir)...)...)
		g := waitFor(t, r, dir)
		whole(t, g)
		return r, g
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			r, g := run(t)
			do(t, r.Process.Signal(s))
			if o := r.end(t); o.status != 130 || !strings.Contains(o.err, "ramjet: interrupted") {
				t.Errorf("status %d, says %q", o.status, o.err)
			}
			gone(t, g.PID)
		})
	}
	t.Run("power off", func(t *testing.T) {
		r, g := run(t)
		g.PowerOff()
		if o := r.end(t); o.status != 0 {
			t.Errorf("status %d, says %q", o.status, o.err)
		}
		gone(t, g.PID)
	})
	t.Run("QEMU is killed", func(t *testing.T) {
		r, g := run(t)
		do(t, syscall.Kill(g.PID, syscall.SIGKILL))
		if o := r.end(t); o.status != 128+9 {
			t.Errorf("status %d, says %q", o.status, o.err)
		}
	})
	t.Run("the result", func(t *testing.T) {
		dir := directory(t)
		o := ramjet(t, append([]string{"restore", "--detach", image, "--", v.Program}, v.ArgsIn(dir)...)...)
		g := vm.RunAttached(t, vm.SerialIn(dir), vm.QMPIn(dir))
		if o.status != 0 || !strings.Contains(o.out, fmt.Sprint(g.PID)) || !strings.Contains(o.out, vm.QMPIn(dir)) || strings.Count(o.out, "\n") != 1 {
			t.Errorf("status %d, says %q and %q", o.status, o.out, o.err)
		}
	})
}

// waitFor waits for the guest that a ramjet restores in the foreground.
func waitFor(t *testing.T, r *running, dir string) *vm.VM {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if s := stateAt(vm.QMPIn(dir)); s == "running" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the VM does not run: %s", &r.err)
		}
	}
	return vm.RunAttached(t, vm.SerialIn(dir), vm.QMPIn(dir))
}

// stateAt is the run state of the VM at a monitor; empty if there is none.
func stateAt(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	m, err := (qmp.Dialer{GreetingTimeout: time.Second}).Dial(context.Background(), path)
	if err != nil {
		return ""
	}
	defer m.Close()
	var s struct{ Status string }
	if m.Execute(context.Background(), "query-status", nil, &s) != nil {
		return ""
	}
	return s.Status
}

// gone checks that a process ends within a moment.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || len(b) == 0 {
			return
		}
	}
	t.Errorf("process %d is still there", pid)
}

// TestKilledRestores ends ramjet at random moments of a restore, by signals that it can see and by SIGKILL. There is a VM that
// runs, or none: never one that waits for what nobody is going to send.
func TestKilledRestores(t *testing.T) {
	v := boot(t, vm.Config{Memory: "512M", Fill: 200})
	image, _ := saveOf(t, v)
	do(t, v.Kill())
	var none, ran int
	times := kills(24)
	for n := range times {
		dir := directory(t)
		mode := []string{"instant", "eager"}[n%2]
		s := []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGKILL}[n%3]
		r := start(t, append([]string{"restore", "--detach", "--json", "--mode", mode, image, "--", v.Program}, v.ArgsIn(dir)...)...)
		time.Sleep(time.Duration(rand.Int64N(int64(map[string]time.Duration{"instant": 80, "eager": 250}[mode] * time.Millisecond))))
		r.Process.Signal(s)
		o := r.end(t)
		if s == syscall.SIGINT && o.status > 0 { // -1: it had not come to take signals yet
			o.says(t, 130, "interrupted")
		}
		noProcess(t)
		if o.status == 0 {
			var result struct{ PID int }
			do(t, json.Unmarshal([]byte(o.out), &result))
			if state := stateAt(vm.QMPIn(dir)); state != "running" {
				t.Errorf("%s, %v: done, and the VM is %q", mode, s, state)
			}
			syscall.Kill(result.PID, syscall.SIGKILL)
			ran++
			continue
		}
		none++
		if left := qemusIn(t, dir); len(left) > 0 && stateAt(vm.QMPIn(dir)) != "running" {
			t.Errorf("%s, %v: a QEMU is left: %v", mode, s, left)
		}
		for _, pid := range qemusIn(t, dir) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	t.Logf("%d restores were ended, %d were done before", none, ran)
	if none < times/4 {
		t.Errorf("only %d of %d restores were ended", none, times)
	}
}

// qemusIn are the processes that have something in a directory on their command line, after a moment in which they may end.
func qemusIn(t *testing.T, dir string) (pids []int) {
	t.Helper()
	for range 100 {
		pids = nil
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range all {
			if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), dir+"/") {
				var pid int
				fmt.Sscanf(path, "/proc/%d/", &pid)
				pids = append(pids, pid)
			}
		}
		if len(pids) == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return pids
}
