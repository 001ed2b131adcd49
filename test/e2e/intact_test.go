// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// intact says what a VM was before something went wrong, and checks that it still is.
type intact struct {
	v      *vm.VM
	before moment
}

func lookBefore(t *testing.T, v *vm.VM) *intact {
	t.Helper()
	return &intact{v, look(t, v, false)}
}

// check checks that the VM runs on with all of its memory, and that nothing is left over: no
// process of ours, no descriptor in QEMU, no files in dir besides names.
func (i *intact) check(t *testing.T, dir string, names ...string) {
	t.Helper()
	if s := status(t, i.v); s != "running" {
		t.Errorf("the VM is %s", s)
		do(t, i.v.Cont())
	}
	now := look(t, i.v, false)
	if now.memory.Sum != i.before.memory.Sum {
		t.Errorf("the memory is %v, it was %v", now.memory, i.before.memory)
	}
	time.Sleep(30 * time.Millisecond)
	if n := count(t, i.v); n <= now.count || now.count < i.before.count {
		t.Errorf("the counter was %d, then %d, and is %d", i.before.count, now.count, n)
	}
	sets, err := i.v.Query("query-fdsets")
	do(t, err)
	if string(sets) != "[]" {
		t.Errorf("QEMU still has the descriptor sets %s", sets)
	}
	noProcess(t)
	if dir != "" {
		nothingLeft(t, dir, names...)
	}
}

// noProcess checks that no process of the program under test is left. A guardian may take a moment to go.
func noProcess(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := processes(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("processes are left: %q", left)
			return
		}
	}
}

// processes are the command lines of all processes of the program under test.
func processes(t *testing.T) (lines []string) {
	t.Helper()
	for _, pid := range pids() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if line := strings.ReplaceAll(string(b), "\x00", " "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// pids are the processes of the program under test.
func pids() (found []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range all {
		if target, err := os.Readlink(exe); err == nil && strings.TrimSuffix(target, " (deleted)") == program {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(exe)))
			found = append(found, pid)
		}
	}
	return found
}

// running is a ramjet that has not ended yet.
type running struct {
	*exec.Cmd
	out, err bytes.Buffer
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{Cmd: exec.Command(program, args...)}
	r.begin(t)
	return r
}

func (r *running) begin(t *testing.T) {
	t.Helper()
	r.Stdout, r.Stderr = &r.out, &r.err
	do(t, r.Start())
	t.Cleanup(func() { r.Process.Kill() })
}

// end waits for its end, which must come within some seconds.
func (r *running) end(t *testing.T) outcome {
	t.Helper()
	stop := time.AfterFunc(30*time.Second, func() { r.Process.Kill() })
	defer stop.Stop()
	var exit *exec.ExitError
	if err := r.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{r.out.String(), r.err.String(), r.ProcessState.ExitCode()}
}

// says checks that it ended with this status and one line that holds all of the words. With --json the line and the status are on
// standard output too, as an object.
func (o outcome) says(t *testing.T, status int, words ...string) {
	t.Helper()
	if o.status != status {
		t.Errorf("status %d, want %d", o.status, status)
	}
	line, ok := strings.CutPrefix(o.err, "ramjet: ")
	object := struct {
		Error  string `json:"error"`
		Status int    `json:"status"`
	}{strings.TrimSuffix(line, "\n"), o.status}
	b, err := json.Marshal(object)
	do(t, err)
	if !ok || strings.Count(line, "\n") != 1 || o.out != "" && o.out != string(b)+"\n" {
		t.Errorf("says %q and %q, want one line", o.err, o.out)
	}
	for _, w := range words {
		if !strings.Contains(strings.ToLower(o.err), strings.ToLower(w)) {
			t.Errorf("says %q, want %q in it", o.err, w)
		}
	}
	t.Logf("%s", strings.TrimSpace(o.err))
}

// until waits until the VM is in another state than running, because it is being saved.
func until(t *testing.T, v *vm.VM, r *running) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if status(t, v) != "running" {
			return
		}
	}
	t.Fatalf("the save does not stop the VM: %s", &r.err)
}
