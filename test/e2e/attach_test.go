// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// denyPtrace, in the environment of this test program, has it become the program that its arguments name, without
// process_vm_readv(2): what kernel.yama.ptrace_scope=1 denies.
const denyPtrace = "RAMJET_DENY_PTRACE"

func init() {
	if os.Getenv(denyPtrace) == "" {
		return
	}
	os.Unsetenv(denyPtrace)
	p := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{Action: seccomp.ActionErrno, Names: []string{"process_vm_readv"}}}}
	err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: p})
	fmt.Fprintln(os.Stderr, errors.Join(err, unix.Exec(os.Args[1], os.Args[1:], os.Environ())))
	os.Exit(1)
}

// TestWhichQEMU (16.7) attaches where it is not plain which process the VM is.
func TestWhichQEMU(t *testing.T) {
	vm.Need(t)
	dirs := []string{directory(t), directory(t)}
	var pids []int
	for _, dir := range dirs {
		pids = append(pids, bareQEMU(t, dir))
	}
	image, socket := filepath.Join(directory(t), "image"), filepath.Join(dirs[0], "qmp")

	t.Run("socket and process of two", func(t *testing.T) {
		refused(t, 1, []string{socket, fmt.Sprint("process ", pids[0]), fmt.Sprint("process ", pids[1]), "--pid"}, "save", "--qmp", socket, "--pid", fmt.Sprint(pids[1]), image)
		must[save.Result](t, "save", "--qmp", socket, "--pid", fmt.Sprint(pids[0]), "--force", image)
	})
	t.Run("no descriptor free", func(t *testing.T) {
		var old unix.Rlimit
		do(t, unix.Prlimit(pids[0], unix.RLIMIT_NOFILE, nil, &old))
		for more := range 3 { // none for the connection; for what is passed through it; for the device state
			open := freeDescriptor(t, pids[0]) + more
			do(t, unix.Prlimit(pids[0], unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(open), Max: old.Max}, nil))
			o := refused(t, 1, []string{fmt.Sprint("process ", pids[0]), fmt.Sprintf("prlimit --pid %d", pids[0])}, "save", "--qmp", socket, "--force", image)
			if strings.Contains(o.err, "busy") {
				t.Errorf("says %q: nobody is connected", o.err)
			}
			do(t, unix.Prlimit(pids[0], unix.RLIMIT_NOFILE, &old, nil))
		}
		must[save.Result](t, "save", "--qmp", socket, "--force", image)
	})
	t.Run("in another mount namespace", func(t *testing.T) {
		if out, err := exec.Command("unshare", "--mount", "mount", "--make-rprivate", "/").CombinedOutput(); err != nil {
			t.Skipf("nothing can be mounted here: %s", out)
		}
		dir := directory(t)
		c := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount -t tmpfs none "$0" && exec "$@"`, dir, vm.Program()}, bareArgs(dir)...)...)
		process(t, "", c)
		pid := c.Process.Pid
		appears(t, fmt.Sprintf("/proc/%d/root%s/qmp", pid, dir))
		must[save.Result](t, "save", "--pid", fmt.Sprint(pid), "--force", image)
	})
	t.Run("no ptrace", func(t *testing.T) {
		self, err := os.Executable()
		do(t, err)
		try := func(dir string) outcome {
			r := &running{Cmd: exec.Command(self, program, "save", "--qmp", filepath.Join(dir, "qmp"), "--force", image)}
			r.Env = append(os.Environ(), denyPtrace+"=1")
			r.begin(t)
			return r.end(t)
		}
		try(dirs[0]).says(t, 1, "pc.ram", "memory-backend-memfd", "aux-ram-share=on")
		shared := []string{"-object", "memory-backend-memfd,id=ram,size=16M,share=on", "-machine"}
		dir := directory(t)
		bareQEMU(t, dir, append(shared, "memory-backend=ram")...)
		try(dir).says(t, 1, "block /rom@", "-machine aux-ram-share=on")
		if version, err := vm.Version(); err != nil || version[0] < 10 {
			t.Skip("this QEMU has no aux-ram-share")
		}
		dir = directory(t)
		bareQEMU(t, dir, append(shared, "memory-backend=ram,aux-ram-share=on")...)
		if o := try(dir); o.status != 0 {
			t.Errorf("with aux-ram-share=on: status %d, says %q", o.status, o.err)
		}
	})
}

// freeDescriptor is the number that the next one of a process gets.
func freeDescriptor(t *testing.T, pid int) (n int) {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // for what it is about to close
	for ; ; n++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", pid, n)); err != nil {
			return n
		}
	}
}
