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

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// clones runs ramjet clone with v's arguments, each clone's sockets in a directory of its own.
func clones(t *testing.T, v *vm.VM, n int, image string, flags ...string) (outcome, restore.CloneResult, string) {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755)
	}
	args := append([]string{"clone", "--detach", "--json", "-n", fmt.Sprint(n), image}, flags...)
	args = append(append(args, "--", v.Program), v.ArgsIn(filepath.Join(dir, "{n}"))...)
	o := ramjet(t, args...)
	var r restore.CloneResult
	if o.out != "" {
		if err := json.Unmarshal([]byte(o.out), &r); err != nil {
			t.Fatalf("result %q: %v", o.out, err)
		}
	}
	for _, c := range r.VMs {
		if c.PID > 0 {
			t.Cleanup(func() { (&vm.VM{PID: c.PID}).Kill() })
		}
	}
	return o, r, dir
}

// TestClone clones a VM with a disk: all go on from the same moment and then each its own way, memory and disk. Meanwhile the
// image they came from is deleted, replaced and saved over.
func TestClone(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 16, Disk: disk(t)})
	image := filepath.Join(t.TempDir(), "image")
	if err := v.WriteDisk(0, 100); err != nil {
		t.Fatal(err)
	}
	before := whole(t, v)
	saveVM(t, v, image)

	o, _, _ := clones(t, v, 2, image)
	if o.status != 1 || !strings.Contains(o.err, v.Args[disks(v)]) || !strings.Contains(o.err, "--overlay") {
		t.Errorf("without --overlay: status %d, says %q", o.status, o.err)
	}
	v.Kill()

	sockets := filepath.Join(t.TempDir(), "clones")
	o, r, dir := clones(t, v, 3, image, "--overlay", "--qmp", sockets)
	if o.status != 0 || len(r.VMs) != 3 {
		t.Fatalf("status %d, says %q", o.status, o.err)
	}
	var all []*vm.VM
	for i, c := range r.VMs {
		if want := filepath.Join(sockets, fmt.Sprint(i, ".sock")); c.QMP != want || c.N != i || c.RunningSeconds <= 0 || len(c.Overlays) != 1 {
			t.Errorf("clone %d: %+v", i, c)
		}
		all = append(all, vm.RunAttached(t, vm.SerialIn(filepath.Join(dir, fmt.Sprint(i))), c.QMP))
	}
	for i, c := range all {
		if got := whole(t, c); got.Sum != before.Sum {
			t.Errorf("clone %d: memory is %v, was %v", i, got, before)
		}
	}

	// Each goes its own way, over a base that has lost its name, and then has it no more.
	diff := filepath.Join(t.TempDir(), "diff")
	held := image + ".held"
	if err := os.Link(image, held); err != nil {
		t.Fatal(err)
	}
	saveVM(t, all[2], image, "--force")
	for i, c := range all {
		if err := c.Touch(1000*(i+1), 1); err != nil {
			t.Fatal(err)
		}
		if err := c.WriteDisk(50*i, 100); err != nil {
			t.Fatal(err)
		}
	}
	changed := whole(t, all[0])
	saveVM(t, all[0], diff+"-held", "--base", held)
	// What is recorded of a clone names its own disk.
	if o := ramjet(t, "inspect", diff+"-held"); !strings.Contains(o.out, r.VMs[0].Overlays[0]) {
		t.Errorf("%s is not in the command line that a clone's save records:\n%s", r.VMs[0].Overlays[0], o.out)
	}
	saveVM(t, all[0], diff+"-other", "--base", image) // has its name, but is not what the VM is mapped from
	os.Remove(held)
	sums := map[uint64]bool{}
	for i, c := range all {
		sums[whole(t, c).Sum] = true
		if d, err := c.CheckDisk(); err != nil || d.Wrong != 0 || d.Pages < 100 {
			t.Errorf("clone %d: disk %v, %v", i, d, err)
		}
	}
	if len(sums) != 3 {
		t.Errorf("the clones' memories have %d different sums", len(sums))
	}
	for _, c := range all {
		c.Kill()
	}
	v2, _ := restoreVM(t, v, diff+"-other")
	if got := whole(t, v2); got.Sum != changed.Sum {
		t.Errorf("from the diff: memory is %v, was %v", got, changed)
	}
	v2.Kill()
	refused(t, 1, []string{"is not at"}, "restore", diff+"-held")

	// Clones of a diff, in each mode.
	for _, mode := range []string{"instant", "eager"} {
		o, r, dir := clones(t, v, 2, diff+"-other", "--overlay", "--qmp", t.TempDir(), "--mode", mode)
		if o.status != 0 {
			t.Fatalf("status %d, says %q", o.status, o.err)
		}
		for i, c := range r.VMs {
			w := vm.RunAttached(t, vm.SerialIn(filepath.Join(dir, fmt.Sprint(i))), c.QMP)
			if got := whole(t, w); got.Sum != changed.Sum {
				t.Errorf("%s clone %d of the diff: memory is %v, was %v", mode, i, got, changed)
			}
			w.Kill()
		}
	}
}

// TestCloneForeground has ramjet stay until its clones have ended, and end them when it is told to end.
func TestCloneForeground(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 1})
	image, sockets, dir := filepath.Join(t.TempDir(), "image"), t.TempDir(), t.TempDir()
	saveVM(t, v, image)
	for i := range 2 {
		do(t, os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755))
	}
	args := append([]string{"clone", "-n", "2", "--qmp", sockets, image, "--", v.Program}, v.ArgsIn(filepath.Join(dir, "{n}"))...)
	c := exec.Command(program, args...)
	do(t, c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for i := range 2 {
		whole(t, vm.RunAttached(t, vm.SerialIn(filepath.Join(dir, fmt.Sprint(i))), filepath.Join(sockets, fmt.Sprint(i, ".sock"))))
	}
	select {
	case err := <-ended:
		t.Fatalf("ramjet ended before its clones: %v", err)
	default:
	}
	do(t, c.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		if status := c.ProcessState.ExitCode(); status != 130 {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		c.Process.Kill()
		t.Fatal("ramjet does not end")
	}
}

// disks is the index of the -drive argument's value.
func disks(v *vm.VM) int {
	for i, a := range v.Args {
		if a == "-drive" {
			return i + 1
		}
	}
	return 0
}

// TestCloneFailure has one of three clones fail.
func TestCloneFailure(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 1})
	image := filepath.Join(t.TempDir(), "image")
	saveVM(t, v, image)
	sockets := t.TempDir()
	if err := os.WriteFile(filepath.Join(sockets, "1.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o, r, _ := clones(t, v, 3, image, "--qmp", sockets)
	if o.status != 1 || strings.Count(o.err, "\n") != 1 || !strings.Contains(o.err, "clone 1: ") || !strings.Contains(o.err, "the other 2 run") {
		t.Errorf("status %d, says %q", o.status, o.err)
	}
	if len(r.VMs) != 3 || r.VMs[1].Error == "" || r.VMs[1].PID != 0 || r.VMs[0].PID == 0 || r.VMs[2].PID == 0 {
		t.Errorf("result %+v", r)
	}

	refused(t, 2, []string{"-n"}, "clone", image)
	for arg, word := range map[string]string{
		"-nic user,hostfwd=tcp::2222-:22":     "port 2222",
		"-vnc :7":                             "port 5907",
		"-pidfile x.pid":                      "x.pid",
		"-chardev file,id=f,path=/x/log":      "/x/log",
		"-device vhost-vsock-pci,guest-cid=5": "vsock address 5",
	} {
		args := append([]string{"clone", "-n", "2", "--qmp", sockets, image, "--", "-m", "128M", "-nodefaults"}, strings.Fields(arg)...)
		refused(t, 1, []string{word, arg, "{n}"}, args...)
	}
}
