// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/export"
	"github.com/ramjet-vm/ramjet/inspect"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// firmware is a machine that runs nothing but its firmware, or not even that (-S).
type firmware struct {
	socket string
	pid    int
}

// startFirmware starts one with 8 MiB in dir, as a user with an environment; more arguments come last. It ends with the test.
func startFirmware(t *testing.T, dir string, user int, env []string, more ...string) firmware {
	t.Helper()
	vm.Need(t)
	f := firmware{socket: filepath.Join(dir, "qmp")}
	c := exec.Command(vm.Program(), append([]string{"-machine", "pc", "-accel", vm.Accelerator(), "-m", "8M", "-nodefaults", "-display", "none",
		"-qmp", "unix:" + f.socket + ",server=on,wait=off"}, more...)...)
	c.Stderr, c.Dir = os.Stderr, dir
	c.Env = append(os.Environ(), env...)
	if user != os.Geteuid() {
		do(t, os.Chown(dir, user, user))
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
	}
	do(t, c.Start())
	f.pid = c.Process.Pid
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	for range 500 {
		if _, err := os.Stat(f.socket); err == nil {
			return f
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("QEMU makes no socket")
	return f
}

// TestStrangers restores images that come from others without arguments: what they record must not be run. (Issue 15, point 15.)
func TestStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has processes of two users")
	}
	const stranger = 65534
	images := directory(t)
	marker := filepath.Join(images, "marker")
	intact := func(t *testing.T) {
		t.Helper()
		if _, err := os.Stat(marker); err == nil {
			t.Error("what the image records was run")
		}
	}
	evil, err := json.Marshal([]string{"-c", "touch " + marker})
	do(t, err)

	dir := directory(t)
	theirs := startFirmware(t, dir, stranger, []string{"RAMJET_COMMAND_LINE=" + string(evil)}, "-S")
	image := filepath.Join(images, "theirs")
	must[save.Result](t, "save", "--qmp", theirs.socket, image)
	for _, command := range [][]string{{"restore", image}, {"restore", "--print-command", image}, {"clone", "-n", "2", "--qmp", images + "/c", image}} {
		refused(t, 1, []string{image, "user 65534", "after --"}, command...)
	}
	intact(t)

	ours := startFirmware(t, directory(t), 0, nil, "-S")
	image = filepath.Join(images, "ours")
	must[save.Result](t, "save", "--qmp", ours.socket, image)
	r := must[restore.Result](t, "restore", "--detach", "--qmp", images+"/r", image)
	kill(r.PID)

	t.Run("import", func(t *testing.T) {
		defer intact(t)
		parts := filepath.Join(images, "parts")
		must[export.Result](t, "export", "--format", "raw", image, parts)
		text, err := os.ReadFile(parts + "/image.json")
		do(t, err)
		var m map[string]any
		do(t, json.Unmarshal(text, &m))
		m["executable"], m["command_line"] = "/bin/sh", []string{"-c", "touch " + marker, "-m", "8M"}
		text, err = json.Marshal(m)
		do(t, err)
		do(t, os.WriteFile(parts+"/image.json", text, 0o600))
		made := filepath.Join(images, "imported")
		if r := must[export.ImportResult](t, "import", parts, made); !r.DroppedCommandLine {
			t.Errorf("%+v", r)
		}
		refused(t, 1, []string{"does not say how"}, "restore", made)
		if r := must[export.ImportResult](t, "import", "--force", "--keep-command-line", parts, made); r.DroppedCommandLine {
			t.Errorf("%+v", r)
		}
		// Its arguments are the user's own now; the program still is a QEMU.
		if o := ramjet(t, "restore", "--print-command", made); o.status != 0 || strings.Contains(o.out, "/bin/sh") || !strings.Contains(o.out, "qemu-system") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("decrypt", func(t *testing.T) {
		key, err := exec.LookPath("age-keygen")
		if err != nil {
			t.Skip("no age-keygen")
		}
		id := filepath.Join(images, "key")
		do(t, exec.Command(key, "-o", id).Run())
		public, err := exec.Command(key, "-y", id).Output()
		do(t, err)
		e := must[export.Result](t, "export", "--recipient", strings.TrimSpace(string(public)), image, image+".age")
		made := filepath.Join(images, "decrypted")
		r := must[export.ImportResult](t, "import", "--identity", id, image+".age", made)
		if !r.DroppedCommandLine || r.ID == e.ID {
			t.Errorf("%+v, was %s", r, e.ID)
		}
		refused(t, 1, []string{"does not say how"}, "restore", made)
		if o := ramjet(t, "verify", made); o.status != 0 {
			t.Errorf("%+v", o)
		}
		if d := must[inspect.DiffResult](t, "diff", image, made); !d.Same {
			t.Errorf("%+v", d)
		}
		r = must[export.ImportResult](t, "import", "--force", "--keep-command-line", "--identity", id, image+".age", made)
		if r.DroppedCommandLine || r.ID != e.ID {
			t.Errorf("%+v, was %s", r, e.ID)
		}
	})
	t.Run("given", func(t *testing.T) {
		for what, change := range map[string]func() error{
			"belongs to user 1000": func() error { return os.Chown(image, 1000, 1000) },
			"others than":          func() error { do(t, os.Chown(image, 0, 0)); return os.Chmod(image, 0o620) },
		} {
			do(t, change())
			refused(t, 1, []string{what, "after --"}, "restore", image)
			do(t, os.Chmod(image, 0o600))
		}
		args := []string{"restore", "--detach", "--qmp", images + "/r2", image, "--json", "--", vm.Program()}
		o := ramjet(t, append(args, "-machine", "pc", "-accel", vm.Accelerator(), "-m", "8M", "-nodefaults", "-display", "none")...)
		var r restore.Result
		if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
			t.Fatal(fmt.Sprint(o))
		}
		kill(r.PID)
	})
}
