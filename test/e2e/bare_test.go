// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// bareArgs are the arguments of a machine that runs its firmware only, in 16 MiB, with its monitor in dir.
func bareArgs(dir string, more ...string) []string {
	args := []string{"-accel", vm.Accelerator(), "-machine", "pc", "-m", "16M", "-nodefaults", "-display", "none",
		"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off"}
	return append(args, more...)
}

// bareQEMU starts a QEMU that ends with the test, however that ends, and returns when its monitor is listened on. The kernel sends
// the signal at the death of the thread that started it, so that thread waits as long as QEMU lives.
func bareQEMU(t *testing.T, dir string, more ...string) (pid int) {
	t.Helper()
	vm.Need(t)
	return process(t, filepath.Join(dir, "qmp"), exec.Command(vm.Program(), bareArgs(dir, more...)...))
}

// process starts a program that ends with the test, and returns when it listens at a Unix socket, if one is named.
func process(t *testing.T, socket string, c *exec.Cmd) (pid int) {
	t.Helper()
	said := &running{}
	c.Stdout, c.Stderr = &said.out, &said.err
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		err := c.Start()
		started <- err
		if err == nil {
			c.Wait()
		}
	}()
	do(t, <-started)
	t.Cleanup(func() { c.Process.Kill(); <-ended })
	for range 1000 {
		if socket == "" {
			return c.Process.Pid
		}
		if l, err := net.Dial("unix", socket); err == nil {
			l.Close()
			return c.Process.Pid
		}
		select {
		case <-ended:
			t.Fatalf("%v ended: %s", c.Args, said.err.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatalf("%v does not listen at %s: %s", c.Args, socket, said.err.String())
	return 0
}

// appears waits until there is a file of that name.
func appears(t *testing.T, path string) {
	t.Helper()
	for range 1000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("there is no %s", path)
}
