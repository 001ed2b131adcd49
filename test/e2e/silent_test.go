// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestSilentQEMU (15.6) restores with the socket of a TPM that serves another VM, so that QEMU waits for its answer for ever.
func TestSilentQEMU(t *testing.T) {
	image := smallImage(t)
	dir := directory(t)
	tpm, err := net.Listen("unix", filepath.Join(dir, "tpm")) // takes nobody any more, as an swtpm that has a client
	do(t, err)
	defer tpm.Close()
	began := time.Now()
	args := append([]string{"restore", "--detach", image, "--", vm.Program()}, bareArgs(dir,
		"-chardev", "socket,id=tpm,path="+filepath.Join(dir, "tpm"), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0", "-m", "8M")...)
	refused(t, 1, []string{"QEMU does not start", filepath.Join(dir, "tpm"), fmt.Sprint("process ", os.Getpid())}, args...)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	if left := qemusIn(t, dir); len(left) > 0 {
		t.Errorf("QEMU is left: %v", left)
	}
}

// TestDirectoryGone (15.7) restores with the recorded command line of a VM whose directory is not there any more, from a directory
// in which another VM's disk has the same name.
func TestDirectoryGone(t *testing.T) {
	vm.Need(t)
	sockets, home, other := directory(t), directory(t), directory(t)
	for _, dir := range []string{home, other} {
		do(t, os.WriteFile(filepath.Join(dir, "disk.raw"), make([]byte, 1<<20), 0o600))
	}
	t.Chdir(home)
	pid := bareQEMU(t, sockets, "-drive", "file=disk.raw,format=raw,if=virtio")
	image := filepath.Join(sockets, "image")
	must[save.Result](t, "save", "--qmp", filepath.Join(sockets, "qmp"), "--then", "quit", image)
	gone(t, pid)
	t.Chdir(other)
	do(t, os.RemoveAll(home))
	for _, command := range [][]string{{"restore", "--detach"}, {"clone", "-n", "1", "--detach", "--qmp", sockets}} {
		refused(t, 1, []string{home, "--"}, append(command, image)...)
	}
	var r restore.Result
	o := ramjet(t, append([]string{"restore", "--detach", "--json", image, "--", vm.Program()}, bareArgs(sockets, "-drive", "file=disk.raw,format=raw,if=virtio")...)...)
	if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
		t.Fatalf("status %d, says %q and %q", o.status, o.out, o.err)
	}
	t.Cleanup(func() { kill(r.PID) })
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", r.PID)); err != nil || dir != other {
		t.Errorf("the restored VM is in %s, %v", dir, err)
	}
}
