// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestHeldProcess (issue 16, point 10): a process id that has become another's is not killed.
func TestHeldProcess(t *testing.T) {
	sleep := func() *exec.Cmd {
		c := exec.Command("sleep", "60")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		return c
	}
	ended, other := sleep(), sleep()
	held := holdProcess(ended.Process.Pid)
	ended.Process.Kill()
	ended.Wait()
	held.pid = other.Process.Pid // as if the kernel had given the id again
	held.kill()
	time.Sleep(50 * time.Millisecond)
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("another process was killed: %v", err)
	}
	holdProcess(other.Process.Pid).kill()
	if err := other.Wait(); err == nil {
		t.Error("the process that was held was not killed")
	}
}

// TestFailedStartLeavesNothingOpen (issue 16, point 10).
func TestFailedStartLeavesNothingOpen(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	for _, detach := range []bool{true, false} {
		start := func() {
			l := Launch{CommandLine: CommandLine{Executable: "/nonexistent/qemu", Args: []string{"-m", "8M"}}, Detach: detach}
			if _, err := l.Start(context.Background()); err == nil {
				t.Fatal("there is such a QEMU")
			}
		}
		start() // the runtime opens descriptors of its own
		time.Sleep(100 * time.Millisecond)
		before := open()
		for range 5 {
			start()
		}
		after := open()
		// The leashes' ends: each has a descriptor until then.
		for deadline := time.Now().Add(20 * time.Second); after > before+1 && time.Now().Before(deadline); after = open() {
			time.Sleep(10 * time.Millisecond)
		}
		if after > before+1 {
			t.Errorf("detached %v: %d descriptors more after 5 failed starts", detach, after-before)
		}
	}
}
