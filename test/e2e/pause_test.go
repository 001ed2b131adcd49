// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// TestPause is about the time in which the guest stands still, with one guest for all of it. The whole matrix of who does what
// when is held to in package qemu, against a machine that has QEMU's run states (TestPauseMatrix).
func TestPause(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 16})
	for _, engine := range []string{"ramjet", "qemu"} {
		t.Run("stopped by somebody during the passes, "+engine, func(t *testing.T) { stoppedInPasses(t, v, engine) })
	}
	t.Run("Ctrl-Z", func(t *testing.T) { controlZ(t, v) })
	t.Run("SIGSTOP", func(t *testing.T) { stoppedSaver(t, v, nil, syscall.SIGSTOP) })
	t.Run("frozen control group", func(t *testing.T) { frozen(t, v) })
	t.Run("max-pause", func(t *testing.T) { maxPause(t, v) })
	t.Run("save beside serve", func(t *testing.T) { besideServe(t, v) })
	t.Run("torn in serve", func(t *testing.T) { tornInServe(t, v) })
	t.Run("migrated again after cont by somebody", func(t *testing.T) { againAfterCont(t, v) })
	whole(t, v)
	t.Run("reset in the pause", func(t *testing.T) { resetInPause(t, v) }) // the last: the guest is another one then
}

// nothingThere checks that a failed save has left nothing.
func nothingThere(t *testing.T, image string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(image))
	do(t, err)
	for _, e := range entries {
		t.Errorf("%s is left", e.Name())
	}
}

// waitStatus waits for the VM to be in a state.
func waitStatus(t *testing.T, v *vm.VM, want string, most time.Duration) {
	t.Helper()
	began, s := time.Now(), ""
	for time.Since(began) < most {
		if s = status(t, v); s == want {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("after %v the VM is %s, want %s", most, s, want)
}

// imageState is the run state that a VM takes up that is restored from an image.
func imageState(t *testing.T, image string) string {
	t.Helper()
	f, err := os.Open(image)
	do(t, err)
	defer f.Close()
	st, err := f.Stat()
	do(t, err)
	i, err := mappedram.Open(f, st.Size())
	do(t, err)
	sections, err := i.DeviceSections()
	do(t, err)
	s, err := vmstate.RunState(sections)
	do(t, err)
	return s
}

func stoppedInPasses(t *testing.T, v *vm.VM, engine string) {
	image := filepath.Join(t.TempDir(), "image")
	r := start(t, "save", "--qmp", v.QMP, "--live", "--engine", engine, "--max-bandwidth", "30M", image)
	time.Sleep(700 * time.Millisecond)
	if s := status(t, v); s != "running" {
		t.Fatalf("the passes are over: the VM is %s", s)
	}
	do(t, v.Stop())
	if o := r.end(t); o.status != 0 {
		t.Fatalf("status %d, says %q", o.status, o.err)
	}
	if s := status(t, v); s != "paused" && (s != "postmigrate" || engine != "qemu") {
		t.Errorf("the VM is %s", s)
	}
	if s := imageState(t, image); s != "paused" {
		t.Errorf("the image says %s", s)
	}
	do(t, v.Cont())
}

// controlZ sends what a terminal stops a process with: the save goes on.
func controlZ(t *testing.T, v *vm.VM) {
	image := filepath.Join(t.TempDir(), "image")
	r := &running{Cmd: exec.Command(program, slow(v, v.QMP, image)...)}
	r.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a group that the kernel would stop
	r.begin(t)
	waitPaused(t, v)
	for _, s := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU} {
		do(t, r.Process.Signal(s))
	}
	if o := r.end(t); o.status != 0 {
		t.Errorf("status %d, says %q", o.status, o.err)
	}
	waitStatus(t, v, "running", time.Second)
}

// stoppedSaver stops a save in the pause: by a signal, or by what is given. The guardian lets the guest go on, and the save fails when it
// wakes up.
func stoppedSaver(t *testing.T, v *vm.VM, stop func(r *running) (goOn func()), signal syscall.Signal) {
	for _, then := range []string{"resume", "quit"} {
		image := filepath.Join(t.TempDir(), "image")
		r := start(t, append(slow(v, v.QMP, image), "--then", then)...)
		goOn := func() { do(t, r.Process.Signal(syscall.SIGCONT)) }
		waitPaused(t, v)
		if stop != nil {
			goOn = stop(r)
		} else {
			do(t, r.Process.Signal(signal))
		}
		waitStatus(t, v, "running", 4*qemu.GuardianPatience)
		goOn()
		o := r.end(t)
		if o.status != 1 || !strings.Contains(o.err, "ramjet was stopped") || strings.Count(o.err, "\n") != 1 {
			t.Errorf("--then %s: status %d, says %q", then, o.status, o.err)
		}
		nothingThere(t, image)
		waitStatus(t, v, "running", time.Second)
		noProcess(t)
	}
}

// frozen is stoppedSaver for a control group that is frozen with all that is in it.
func frozen(t *testing.T, v *vm.VM) {
	name := fmt.Sprintf("ramjet-test-%d", os.Getpid())
	var dir, knob, on, off string
	for _, c := range []struct{ root, knob, on, off string }{
		{"/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED"},
		{"/sys/fs/cgroup/unified", "cgroup.freeze", "1", "0"},
		{"/sys/fs/cgroup", "cgroup.freeze", "1", "0"},
	} {
		at := filepath.Join(c.root, name)
		if os.Mkdir(at, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { os.Remove(at) })
		if _, err := os.Stat(filepath.Join(at, c.knob)); err == nil {
			dir, knob, on, off = at, filepath.Join(at, c.knob), c.on, c.off
			break
		}
	}
	if dir == "" {
		t.Skip("no control group can be made here that can be frozen")
	}
	image := filepath.Join(t.TempDir(), "image")
	in := append([]string{"-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(dir, "cgroup.procs"), program}, slow(v, v.QMP, image)...)
	r := &running{Cmd: exec.Command("sh", in...)}
	r.begin(t)
	waitPaused(t, v)
	do(t, os.WriteFile(knob, []byte(on), 0))
	defer os.WriteFile(knob, []byte(off), 0)
	waitStatus(t, v, "running", 4*qemu.GuardianPatience)
	do(t, os.WriteFile(knob, []byte(off), 0))
	if o := r.end(t); o.status != 1 || !strings.Contains(o.err, "ramjet was stopped") || strings.Count(o.err, "\n") != 1 {
		t.Errorf("status %d, says %q", o.status, o.err)
	}
	nothingThere(t, image)
	waitStatus(t, v, "running", time.Second)
	noProcess(t)
}

func maxPause(t *testing.T, v *vm.VM) {
	image := filepath.Join(t.TempDir(), "image")
	for _, flags := range [][]string{nil, {"--then=quit"}, {"--then=stay"}, {"--engine=qemu"}, {"--live"}} {
		args := append(append(slow(v, v.QMP, image), "--max-pause", "300ms"), flags...)
		if len(flags) > 0 && flags[0] == "--live" {
			// Its pause is short enough.
			if o := ramjet(t, args...); o.status != 0 {
				t.Errorf("%v: status %d, says %q", flags, o.status, o.err)
			}
			do(t, os.Remove(image))
			continue
		}
		refused(t, 1, []string{"longer than 300ms", "nothing was saved"}, args...)
		nothingThere(t, image)
		waitStatus(t, v, "running", time.Second)
	}
	refused(t, 2, []string{"max-pause"}, append(slow(v, v.QMP, image), "--max-pause=-1s")...)
}

// migrating begins a migration through serve, of which pages take a second or two, and returns where it goes.
func migrating(t *testing.T, v *vm.VM, ready func(ask func(command, args string))) (ask func(command, args string) string, status func() string) {
	t.Helper()
	c := serve(t, v.QMP)
	image := filepath.Join(t.TempDir(), "image")
	pass(t, c, image, os.O_CREATE|os.O_WRONLY)
	ask = func(command, args string) string {
		t.Helper()
		return askRaw(t, c, command, args)
	}
	ask("migrate-set-parameters", `{"max-bandwidth":40000000}`)
	ready(func(command, args string) { ask(command, args) })
	status = func() string { return ask("query-migrate", "") }
	return ask, status
}

// askRaw is ask for a command that may be refused: the answer is then what QEMU says against it.
func askRaw(t *testing.T, c *qmp.Client, command, args string) string {
	t.Helper()
	var in any
	if args != "" {
		in = json.RawMessage(args)
	}
	var out json.RawMessage
	err := c.Execute(t.Context(), command, in, &out)
	var no *qmp.Error
	if errors.As(err, &no) {
		return no.Desc
	}
	do(t, err)
	return string(out)
}

// untilSays asks until the answer has something in it.
func untilSays(t *testing.T, ask func() string, want string) (s string) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(5 * time.Millisecond) {
		if s = ask(); strings.Contains(s, want) {
			return s
		}
	}
	t.Fatalf("the last answer is %s, want %s in it", s, want)
	return s
}

func besideServe(t *testing.T, v *vm.VM) {
	own := filepath.Join(v.Dir, "own.sock")
	image := filepath.Join(t.TempDir(), "image")
	ask, status := migrating(t, v, func(func(string, string)) {})
	ask("migrate", `{"uri":"file:/dev/fdset/1"}`)
	refused(t, 1, []string{"another ramjet is saving this VM"}, "save", "--qmp", own, image)
	untilSays(t, status, `"completed"`)
	waitStatus(t, v, "paused", time.Second) // nobody let it go on
	nothingThere(t, image)
	ask("cont", "")

	// And the other way.
	r := start(t, slow(v, own, image)...)
	untilSays(t, func() string { return ask("query-status", "") }, `"paused"`)
	if s := ask("migrate", `{"uri":"file:/dev/fdset/1"}`); !strings.Contains(s, "another ramjet is saving this VM") {
		t.Errorf("migrate beside a save says %s", s)
	}
	if o := r.end(t); o.status != 0 {
		t.Errorf("the save: status %d, says %q", o.status, o.err)
	}
	waitStatus(t, v, "running", time.Second)
}

func tornInServe(t *testing.T, v *vm.VM) {
	human := func(line string) {
		t.Helper()
		if _, err := v.Human(line); err != nil {
			t.Fatal(err)
		}
	}
	ask, status := migrating(t, v, func(ask func(string, string)) {
		ask("migrate-set-capabilities", `{"capabilities":[{"capability":"pause-before-switchover","state":true}]}`)
	})
	ask("migrate", `{"uri":"file:/dev/fdset/1"}`)
	untilSays(t, status, `"pre-switchover"`)
	// Through the proxy it is as with QEMU.
	if s := ask("human-monitor-command", `{"command-line":"cont"}`); !strings.Contains(s, "not finalized") {
		t.Errorf("HMP cont through the proxy says %s", s)
	}
	human("cont")
	human("stop")
	ask("migrate-continue", `{"state":"pre-switchover"}`)
	if s := untilSays(t, status, `"failed"`); !strings.Contains(s, "somebody else let the VM go on") {
		t.Errorf("the migration says %s", s)
	}
	waitStatus(t, v, "paused", time.Second) // as its owner wants it
	ask("cont", "")
	ask("migrate-set-capabilities", `{"capabilities":[{"capability":"pause-before-switchover","state":false}]}`)
}

func againAfterCont(t *testing.T, v *vm.VM) {
	ask, status := migrating(t, v, func(ask func(string, string)) { ask("migrate-set-parameters", `{"max-bandwidth":0}`) })
	for _, by := range []string{"proxy", "another monitor"} {
		ask("migrate", `{"uri":"file:/dev/fdset/1"}`)
		untilSays(t, status, `"completed"`)
		if s := ask("migrate", `{"uri":"file:/dev/fdset/1"}`); !strings.Contains(s, "previous migration") {
			t.Errorf("migrate after a migration says %s", s)
		}
		if by == "proxy" {
			ask("human-monitor-command", `{"command-line":"cont"}`)
		} else if _, err := v.Human("cont"); err != nil {
			t.Fatal(err)
		}
		if s := ask("migrate", `{"uri":"file:/dev/fdset/1"}`); s != "{}" {
			t.Errorf("migrate after cont by the %s says %s", by, s)
		}
		untilSays(t, status, `"completed"`)
		ask("cont", "")
	}
}

// standsStill waits until the guest is stopped, by whomever.
func standsStill(t *testing.T, v *vm.VM) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		if status(t, v) != "running" {
			return
		}
	}
	t.Fatal("nobody stops the VM")
}

func resetInPause(t *testing.T, v *vm.VM) {
	image := filepath.Join(t.TempDir(), "image")
	do(t, v.Execute("set-action", map[string]string{"reboot": "reset"}, nil)) // the test's guests have -no-reboot
	for _, engine := range []string{"ramjet", "qemu"} {
		r := start(t, append(slow(v, v.QMP, image), "--engine", engine)...)
		standsStill(t, v)
		do(t, v.Execute("system_reset", nil, nil))
		o := r.end(t)
		if o.status != 1 || !strings.Contains(o.err, "reset the VM") || strings.Count(o.err, "\n") != 1 {
			t.Errorf("%s: status %d, says %q", engine, o.status, o.err)
		}
		if _, err := os.Stat(image); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is an image of two moments", engine)
		}
		waitStatus(t, v, "running", 2*time.Second)
	}
}
