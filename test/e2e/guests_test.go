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

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// directory is a directory that ends with the test. Its path is short, for sockets' paths may have 107 bytes only.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// boot starts a guest whose directory outlives it, so that its recorded command line can be used again, and whose
// memory holds all there is to get wrong: pages written, pages that were written and are zero now, pages that were given back.
func boot(t *testing.T, c vm.Config) *vm.VM {
	t.Helper()
	c.Dir = directory(t)
	if c.Fill == 0 {
		c.Fill = 40
	}
	v := vm.Run(t, c)
	do(t, v.Zero(1000, 1500))
	do(t, v.Free(4000, 600))
	return v
}

// do fails the test on an error.
func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// disk makes a qcow2 image that ends with the test.
func disk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(directory(t), "disk.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", path, "64M").CombinedOutput(); err != nil {
		t.Skipf("no qcow2 image can be made: %v %s", err, out)
	}
	return path
}

// moment is what a guest knows of itself.
type moment struct {
	memory, disk vm.Checked
	count        uint64
	cpus         []uint64
}

// look asks the guest for all of it and fails the test if anything is wrong.
func look(t *testing.T, v *vm.VM, withDisk bool) moment {
	t.Helper()
	m := moment{memory: whole(t, v), count: count(t, v)}
	var err error
	m.cpus, err = v.CPUCounts()
	do(t, err)
	if withDisk {
		m.disk, err = v.CheckDisk()
		do(t, err)
		if m.disk.Wrong != 0 || m.disk.Pages == 0 {
			t.Fatalf("the guest says of its disk: %v", m.disk)
		}
	}
	return m
}

// sameGuest checks that the guest that has come back is the one that was looked at before and after the save, and works on.
func sameGuest(t *testing.T, v *vm.VM, before, after moment, withDisk bool) {
	t.Helper()
	now := look(t, v, withDisk)
	if now.memory.Sum != before.memory.Sum || now.memory.Zero != before.memory.Zero {
		t.Errorf("the restored memory is %v, it was %v", now.memory, before.memory)
	}
	if now.disk.Sum != before.disk.Sum {
		t.Errorf("the restored guest's disk is %v, it was %v", now.disk, before.disk)
	}
	// Counted up to the save, which was before "after"; then a few seconds since the restore, 100 a second.
	if now.count < before.count || now.count > after.count+3000 {
		t.Errorf("the restored counter is %d, it was %d before the save and %d after", now.count, before.count, after.count)
	}
	time.Sleep(50 * time.Millisecond)
	again, err := v.CPUCounts()
	do(t, err)
	for i := range again {
		if again[i] <= now.cpus[i] {
			t.Errorf("processor %d stands still at %d", i, again[i])
		}
	}
	do(t, v.Touch(200, 3)) // it can write too
	whole(t, v)
}

// execute runs a command on the monitor at a path, which must succeed.
func execute(t *testing.T, path, command string, args, result any) {
	t.Helper()
	m, err := qmp.Dial(t.Context(), path)
	do(t, err)
	defer m.Close()
	if err := m.Execute(t.Context(), command, args, result); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
}

// status is the VM's run state.
func status(t *testing.T, v *vm.VM) string {
	t.Helper()
	s, err := v.Status()
	do(t, err)
	return s
}

// saveOf saves v into a new file and returns its name.
func saveOf(t *testing.T, v *vm.VM, flags ...string) (string, *save.Result) {
	t.Helper()
	image := filepath.Join(directory(t), "image")
	return image, saveVM(t, v, image, flags...)
}

// bring restores an image in the background: with v's arguments in a new directory after "--", or with those
// that the image holds, in v's own. It returns the directory.
func bring(t *testing.T, v *vm.VM, recorded bool, image string, flags ...string) (dir string, r restore.Result) {
	t.Helper()
	dir = v.Dir
	args := append([]string{"restore", "--detach", "--json", image}, flags...)
	if !recorded {
		dir = directory(t)
		args = append(append(args, "--", v.Program), v.ArgsIn(dir)...)
	}
	o := ramjet(t, args...)
	if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
		t.Fatalf("ramjet %s: status %d, says %q, %q", strings.Join(args, " "), o.status, o.out, o.err)
	}
	t.Cleanup(func() { kill(r.PID) })
	return dir, r
}

// kill ends a QEMU that is not our child, if it is still there.
func kill(pid int) {
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(args), "qemu") {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// revive is bring for a guest that is to run, and attaches to it.
func revive(t *testing.T, v *vm.VM, recorded bool, image string, flags ...string) *vm.VM {
	t.Helper()
	dir, r := bring(t, v, recorded, image, flags...)
	var s struct{ Status string }
	if execute(t, vm.QMPIn(dir), "query-status", nil, &s); s.Status != "running" {
		t.Fatalf("the restored VM is %s", s.Status)
	}
	g := vm.RunAttached(t, vm.SerialIn(dir), vm.QMPIn(dir))
	if r.PID != g.PID {
		t.Errorf("the result names process %d, the VM is %d", r.PID, g.PID)
	}
	return g
}

// sleeping connects to a guest that is not to run, and kills it when the test ends.
func sleeping(t *testing.T, dir string) *vm.VM {
	t.Helper()
	g, err := vm.Connect(t.Context(), vm.SerialIn(dir), vm.QMPIn(dir))
	do(t, err)
	t.Cleanup(func() { g.Kill() })
	return g
}

// nothingLeft checks that a directory holds these names only.
func nothingLeft(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	do(t, err)
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	if fmt.Sprint(found) != fmt.Sprint(names) {
		t.Errorf("%s holds %q, want %q", dir, found, names)
	}
}
