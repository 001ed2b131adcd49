// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// smallArgs are those of the VM of smallImage, with its monitor in dir.
func smallArgs(dir string, more ...string) []string {
	return bareArgs(dir, append([]string{"-m", "8M"}, more...)...)
}

// TestFailedRestoreLeavesNothing (16, section 3) has restores and clones fail when QEMU has made its sockets and files.
func TestFailedRestoreLeavesNothing(t *testing.T) {
	image := smallImage(t)
	files := func(dir string) []string {
		in := func(name string) string { return filepath.Join(dir, name) }
		return smallArgs(dir, "-serial", "unix:"+in("serial")+",server=on,wait=off", "-chardev", "file,id=log,path="+in("log"), "-D", in("qemu.log"), "-pidfile", in("pid"),
			"-chardev", "socket,id=ga,path="+in("agent")+",server=on,wait=off,logfile="+in("agent.log"), "-vnc", "unix:"+in("vnc"),
			"-object", "memory-backend-file,id=more,size=1M,mem-path="+in("memory")+",share=on", "-device", "VGA") // which the saved one has not
	}
	for _, mode := range []string{"instant", "eager"} {
		dir := directory(t)
		do(t, os.WriteFile(filepath.Join(dir, "kept"), nil, 0o600))
		refused(t, 1, []string{"vga"}, append([]string{"restore", "--detach", "--mode", mode, image, "--", vm.Program()}, files(dir)...)...)
		nothingLeft(t, dir, "kept")
		refused(t, 1, []string{"vga"}, append([]string{"clone", "-n", "1", "--detach", "--qmp-dir", filepath.Join(dir, "new/clones"), "--mode", mode, image, "--", vm.Program()}, files(dir)...)...)
		nothingLeft(t, dir, "kept")
	}
}

// TestWriteLock (16, section 3) restores a VM that writes to a disk which another VM reads, which QEMU refuses without the disk's name.
func TestWriteLock(t *testing.T) {
	vm.Need(t)
	reader, dir := directory(t), directory(t)
	disk := filepath.Join(reader, "disk")
	do(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	args := []string{"-drive", "if=none,id=d,format=raw,file=" + disk, "-device", "virtio-blk-pci,drive=d"}
	bareQEMU(t, dir, args...)
	image := filepath.Join(dir, "image")
	must[save.Result](t, "save", "--qmp", filepath.Join(dir, "qmp"), "--then", "quit", image)
	pid := bareQEMU(t, reader, "-drive", "if=none,id=d,format=raw,readonly=on,file="+disk, "-device", "virtio-blk-pci,drive=d")
	for _, mode := range []string{"instant", "eager"} {
		refused(t, 1, []string{disk, fmt.Sprint("process ", pid), "--set"}, append([]string{"restore", "--detach", "--mode", mode, image, "--", vm.Program()}, bareArgs(dir, args...)...)...)
	}
	nothingLeft(t, dir, "image")
}

// TestCtrlC (16, section 3) restores on a terminal and types Ctrl-C: what that will do is said before, and the exit status says that it was done.
func TestCtrlC(t *testing.T) {
	image := smallImage(t)
	dir := directory(t)
	master, slave := terminal(t)
	r := onTerminal(t, slave, append([]string{"restore", image, "--", vm.Program()}, smallArgs(dir)...)...)
	appears(t, filepath.Join(dir, "qmp"))
	var said strings.Builder
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(said.String(), "Ctrl-C ends it") && time.Now().Before(deadline); {
		b := make([]byte, 4096)
		do(t, master.SetReadDeadline(deadline))
		n, err := master.Read(b)
		do(t, err)
		said.Write(b[:n])
	}
	if !strings.Contains(said.String(), "--detach") {
		t.Errorf("says %q before", said.String())
	}
	_, err := master.WriteString("\x03")
	do(t, err)
	r.end(t)
	if status := r.ProcessState.ExitCode(); status != 130 {
		t.Errorf("status %d", status)
	}
	if left := qemusIn(t, dir); len(left) > 0 {
		t.Errorf("QEMU is left: %v", left)
	}
}

// onTerminal starts ramjet with a terminal of its own.
func onTerminal(t *testing.T, slave *os.File, args ...string) *running {
	t.Helper()
	r := &running{Cmd: exec.Command(program, args...)}
	r.Stdin, r.Stdout, r.Stderr = slave, slave, slave
	r.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	do(t, r.Start())
	t.Cleanup(func() { r.Process.Kill() })
	return r
}

// terminal makes a pseudoterminal (pts(4)).
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { master.Close() })
	do(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	do(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	do(t, err)
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
