// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// unitCalls names, in the environment of this test program, the system calls that it shall leave itself before it becomes the
// program that its arguments name.
const unitCalls = "RAMJET_UNIT_CALLS"

func init() {
	names := os.Getenv(unitCalls)
	if names == "" {
		return
	}
	os.Unsetenv(unitCalls)
	err := leaveCalls(strings.Fields(names))
	if err == nil {
		err = unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
	}
	if err == unix.EINVAL {
		err = nil // before Linux 6.3
	}
	if err == nil {
		err = unix.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// leaveCalls has all other system calls fail with EPERM, for good.
func leaveCalls(names []string) error {
	info, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n string) bool { _, known := info.SyscallNames[n]; return !known })
	p := seccomp.Policy{DefaultAction: seccomp.ActionErrno}
	for part := range slices.Chunk(names, 50) { // a jump of the filter is 255 at most
		p.Syscalls = append(p.Syscalls, seccomp.SyscallGroup{Action: seccomp.ActionAllow, Names: part})
	}
	return seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: p})
}

// unit is the lines of the systemd unit, by name.
func unit(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../packaging/ramjet-serve@.service")
	do(t, err)
	u := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			u[name] = value
		}
	}
	return u
}

// TestUnitVerify has systemd read the unit.
func TestUnitVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze here")
	}
	b, err := os.ReadFile("../../packaging/ramjet-serve@.service")
	do(t, err)
	path := filepath.Join(t.TempDir(), "ramjet-serve@vm1.service")
	do(t, os.WriteFile(path, bytes.ReplaceAll(b, []byte("/usr/bin/ramjet"), []byte(program)), 0o600))
	// It looks at the units beside this one too, and has opinions on them.
	if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || bytes.Contains(out, []byte("ramjet")) {
		t.Errorf("%v: %s", err, out)
	}
}

// sandbox is what the unit's options make of the file system, by the same means as systemd: everything is read-only but the runtime
// directory, homes and /tmp are empty, /dev has what programs expect, and kernel and control groups cannot be set.
const sandbox = `set -eu
mount --make-rprivate /
mount --bind "$RUNTIME" "$RUNTIME"
mkdir "$RUNTIME/dev"
mount -t tmpfs none "$RUNTIME/dev"
for n in null zero full random urandom tty; do touch "$RUNTIME/dev/$n"; mount --bind "/dev/$n" "$RUNTIME/dev/$n"; done
mount --rbind "$RUNTIME/dev" /dev
umount -R "$RUNTIME/dev"
rmdir "$RUNTIME/dev"
for d in /root /home /tmp /var/tmp /run/user; do [ ! -d $d ] || mount -t tmpfs none $d; done
mount --bind /proc/sys /proc/sys
while read -r _ at _; do case $at in
/proc | /dev | /dev/* | /tmp | /var/tmp | "$RUNTIME") ;;
*) ! mountpoint -q "$at" || mount -o remount,bind,ro "$at" ;;
esac done </proc/self/mounts
cd /
exec setpriv --bounding-set="$CAPS" --inh-caps=-all --no-new-privs "$@"
`

// callsOf are the system calls of a list as systemd has it, with its sets.
func callsOf(t *testing.T, list []string) (calls []string) {
	t.Helper()
	for _, n := range list {
		if !strings.HasPrefix(n, "@") {
			calls = append(calls, n)
			continue
		}
		out, err := exec.Command("systemd-analyze", "syscall-filter", n).Output()
		do(t, err)
		var inner []string
		for _, line := range strings.Split(string(out), "\n")[1:] {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				inner = append(inner, line)
			}
		}
		calls = append(calls, callsOf(t, inner)...)
	}
	return calls
}

// TestUnit starts serve as the unit does, in a sandbox as its options describe it, and has it save a VM.
func TestUnit(t *testing.T) {
	for _, tool := range []string{"systemd-analyze", "setpriv", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed here", tool)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can make the sandbox")
	}
	if out, err := exec.Command("unshare", "--mount", "mount", "--make-rprivate", "/").CombinedOutput(); err != nil {
		t.Skipf("nothing can be mounted here: %s", out)
	}
	vm.Need(t)
	u := unit(t)
	runtime, err := os.MkdirTemp("/run", "ramjet-unit-")
	do(t, err)
	t.Cleanup(func() { os.RemoveAll(runtime) })
	// Neither /tmp nor a home, which the sandbox hides.
	programs, err := os.MkdirTemp("/var/lib", "ramjet-unit-")
	do(t, err)
	t.Cleanup(func() { os.RemoveAll(programs) })
	self, err := os.Executable()
	do(t, err)
	for from, to := range map[string]string{self: "filter", program: "ramjet"} {
		if out, err := exec.Command("cp", from, filepath.Join(programs, to)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 10, Dir: runtime})
	before := whole(t, v)
	do(t, os.Chown(v.QMP, 65534, 65534)) // as that of a QEMU of another user
	for name, arguments := range map[string]string{"memory": "--memory ram0=64M", "vm": "--vm " + v.QMP + " --metrics 127.0.0.1:0"} {
		t.Run(name, func(t *testing.T) {
			start := strings.NewReplacer("/usr/bin", programs, "/run/ramjet", runtime, "%i", name, "$RAMJET_SERVE", arguments).Replace(u["ExecStart"])
			caps := "-all"
			for _, c := range strings.Fields(u["CapabilityBoundingSet"]) {
				caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
			}
			args := append([]string{"--mount", "sh", "-c", sandbox, "-", filepath.Join(programs, "filter")}, strings.Fields(start)...)
			c := exec.Command("unshare", args...)
			var said bytes.Buffer
			c.Env, c.Stderr = []string{"PATH=" + os.Getenv("PATH"), "RUNTIME=" + runtime, "CAPS=" + caps,
				unitCalls + "=" + strings.Join(callsOf(t, strings.Fields(u["SystemCallFilter"])), " ")}, &said
			do(t, c.Start())
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			socket := filepath.Join(runtime, name+".qmp")
			for i := 0; ; i++ {
				if _, err := os.Stat(socket); err == nil {
					break
				}
				select {
				case err := <-ended:
					t.Fatalf("%v: %s", err, said.String())
				case <-time.After(20 * time.Millisecond):
				}
			}
			client, err := qmp.Dial(t.Context(), socket)
			do(t, err)
			image := filepath.Join(t.TempDir(), "image")
			pass(t, client, image, os.O_CREATE|os.O_WRONLY)
			ask(t, client, "migrate", `{"uri":"file:/dev/fdset/1"}`)
			moved(t, client)
			if m := open(t, image); !m.Complete {
				t.Errorf("%s is not complete", image)
			}
			if name == "vm" {
				ask(t, client, "cont", "")
			}
			client.Close()
			do(t, c.Process.Signal(syscall.SIGTERM))
			err = <-ended
			if code := c.ProcessState.ExitCode(); code != 0 && fmt.Sprint(code) != u["SuccessExitStatus"] {
				t.Errorf("%v: %s", err, said.String())
			}
		})
	}
	if after := whole(t, v); after.Sum != before.Sum {
		t.Errorf("the guest's memory is %v, was %v", after, before)
	}
}
