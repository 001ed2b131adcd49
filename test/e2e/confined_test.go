// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestConfined looks at a ramjet in the middle of a save: it has given up what docs/operating.md says, in all of its threads, and the
// image is none the worse for it. Package sandbox's own tests show what that means.
func TestConfined(t *testing.T) {
	for backend, cases := range map[vm.Backend][]confinedCase{
		vm.Memfd: {
			{nil, true, true},
			{[]string{"--live"}, true, true},
			{[]string{"--engine=qemu"}, true, true},
			{[]string{"--no-sandbox"}, false, false},
		},
		vm.Anonymous: {{nil, true, false}},
	} {
		v := boot(t, vm.Config{Memory: "256M", Backend: backend, Fill: 60})
		before := whole(t, v)
		image := filepath.Join(directory(t), "image")
		for _, c := range cases {
			t.Run(fmt.Sprint(backend, c.flags), func(t *testing.T) { c.save(t, v, image) })
		}
		do(t, v.Kill())
		g, _ := restoreVM(t, v, image)
		if after := whole(t, g); after.Sum != before.Sum {
			t.Errorf("memory is %v, was %v", after, before)
		}
		do(t, g.Kill())
	}
}

type confinedCase struct {
	flags              []string
	confined, landlock bool
}

// save saves v and looks at the process while the guest stands still.
func (c confinedCase) save(t *testing.T, v *vm.VM, image string) {
	r := start(t, append([]string{"save", "-v", "--force", "--qmp", v.QMP, "--max-bandwidth=200M", image}, c.flags...)...)
	for deadline := time.Now().Add(10 * time.Second); status(t, v) == "running"; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the VM is not stopped: %s", &r.err)
		}
	}
	// While the device state is made a second filter takes opening files away, with plain -m too, where there is no Landlock. (Issue 15,
	// point 18.)
	for deadline := time.Now().Add(5 * time.Second); c.confined && filters(r.Process.Pid) == "1"; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("there is one filter only")
			break
		}
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.Process.Pid))
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if s := string(b); err == nil && (strings.Contains(s, "NoNewPrivs:\t1") != c.confined || strings.Contains(s, "Seccomp:\t2") != c.confined) {
			t.Errorf("%s: %s", path, s)
		}
	}
	if len(threads) == 0 {
		t.Error("the save is over")
	}
	o := r.end(t)
	if o.status != 0 || c.confined && haveLandlock() && strings.Contains(o.err, "no Landlock") == c.landlock {
		t.Fatalf("status %d, says %s", o.status, o.err)
	}
	noProcess(t)
	nothingLeft(t, filepath.Dir(image), "image")
	if o := ramjet(t, "verify", image); o.status != 0 {
		t.Error(o.err)
	}
}

// filters is how many filters of system calls a process has; "" where the kernel does not say (before Linux 5.9).
func filters(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "Seccomp_filters:\t")
	n, _, _ := strings.Cut(rest, "\n")
	return n
}

// haveLandlock asks the kernel.
func haveLandlock() bool {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	return e == 0 && v > 0
}
