// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPeak measures a small program, started by a process that has once been large.
func TestPeak(t *testing.T) {
	const large, small = 512 << 20, 64 << 20
	b, err := unix.Mmap(-1, 0, large, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	unix.Munmap(b)
	c := exec.Command("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=8", "status=none")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	peak := watchPeak(c.Process.Pid)
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := peak(); n < small || n > 2*small {
		t.Errorf("the largest size of a program with a buffer of %d MiB is %d MiB", small>>20, n>>20)
	}
}
