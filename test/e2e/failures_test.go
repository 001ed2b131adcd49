// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestFailedSaves makes saves fail in many ways. The VM does not notice, and nothing is left.
func TestFailedSaves(t *testing.T) {
	v := boot(t, vm.Config{Memory: "256M", Backend: vm.Memfd})
	i := lookBefore(t, v)
	for _, engine := range []string{"ramjet", "qemu"} {
		t.Run(engine, func(t *testing.T) {
			e := &failing{i, engine}
			t.Run("no directory", e.noDirectory)
			t.Run("not a directory", e.notADirectory)
			t.Run("exists", e.exists)
			t.Run("disk full", e.diskFull)
			t.Run("file size limit", e.fileSize)
			for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
				t.Run(s.String(), func(t *testing.T) { e.signalled(t, s) })
			}
		})
	}
	t.Run("monitor busy", func(t *testing.T) {
		m, err := qmp.Dial(t.Context(), v.QMP)
		do(t, err)
		defer m.Close()
		dir := directory(t)
		refused(t, 1, []string{v.QMP, "one"}, "save", "--qmp", v.QMP, dir+"/image")
		m.Close()
		i.check(t, dir)
	})
	t.Run("no socket", func(t *testing.T) {
		dir := directory(t)
		refused(t, 1, []string{"there is no monitor socket at " + dir + "/none"}, "save", "--qmp", dir+"/none", dir+"/image")
		refused(t, 1, []string{"no process 4194305"}, "save", "--pid", "4194305", dir+"/image")
		refused(t, 1, []string{fmt.Sprintf("process %d", os.Getpid()), "--qmp"}, "save", "--pid", fmt.Sprint(os.Getpid()), dir+"/image")
		nothingLeft(t, dir)
	})
	t.Run("not permitted", func(t *testing.T) { notPermitted(t, i) })
	t.Run("usage", func(t *testing.T) {
		refused(t, 2, []string{"--qmp"}, "save", "image")
		refused(t, 2, []string{"IMAGE is missing"}, "save", "--qmp", v.QMP)
		refused(t, 2, []string{"nobody", "qemu"}, "save", "--qmp", v.QMP, "--engine=nobody", "image")
		refused(t, 2, []string{"256"}, "save", "--qmp", v.QMP, "--channels=256", "image")
		refused(t, 2, []string{"--max-bandwidth"}, "save", "--qmp", v.QMP, "--max-bandwidth=fast", "image")
		refused(t, 2, []string{"--nonsense"}, "save", "--nonsense", "image")
		refused(t, 2, []string{"IMAGE is missing"}, "restore")
		i.check(t, "")
	})
}

// failing are saves by one engine.
type failing struct {
	*intact
	engine string
}

func (f *failing) args(image string, more ...string) []string {
	return append([]string{"save", "--engine=" + f.engine, "--qmp", f.v.QMP, image}, more...)
}

func (f *failing) noDirectory(t *testing.T) {
	dir := directory(t)
	refused(t, 1, []string{dir + "/none", "does not exist"}, f.args(dir+"/none/image")...)
	f.check(t, dir)
}

func (f *failing) notADirectory(t *testing.T) {
	dir := directory(t)
	do(t, os.WriteFile(dir+"/file", nil, 0o600))
	refused(t, 1, []string{dir + "/file", "not a directory"}, f.args(dir+"/file/image")...)
	refused(t, 1, []string{dir + " is a directory"}, f.args(dir, "--force")...)
	f.check(t, dir, "file")
}

func (f *failing) exists(t *testing.T) {
	dir := directory(t)
	do(t, os.WriteFile(dir+"/image", []byte("precious"), 0o600))
	refused(t, 1, []string{"exists", "--force"}, f.args(dir+"/image")...)
	if b, err := os.ReadFile(dir + "/image"); err != nil || string(b) != "precious" {
		t.Errorf("what was there is %q, %v", b, err)
	}
	f.check(t, dir, "image")
	must[save.Result](t, f.args(dir+"/image", "--force")...)
	open(t, dir+"/image")
	f.check(t, dir, "image")
}

// diskFull lets the disk fill up at the very beginning, in the middle of the pages, and near their end.
func (f *failing) diskFull(t *testing.T) {
	for _, size := range []string{"100k", "30m", "90m"} {
		dir := directory(t)
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Skipf("cannot mount a file system: %v", err)
		}
		start(t, f.args(dir+"/image")...).end(t).says(t, 1, "no space left", map[string]string{"ramjet": "make room in " + dir, "qemu": ""}[f.engine])
		f.check(t, dir)
		do(t, unix.Unmount(dir, 0))
	}
}

// fileSize runs into the limit of file sizes, which comes with a signal that ends programs.
func (f *failing) fileSize(t *testing.T) {
	dir := directory(t)
	if f.engine == "qemu" { // QEMU's limit counts, and the signal would end it
		var old unix.Rlimit
		do(t, unix.Prlimit(f.v.PID, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 50 << 20, Max: unix.RLIM_INFINITY}, &old))
		defer unix.Prlimit(f.v.PID, unix.RLIMIT_FSIZE, &old, nil)
		refused(t, 1, []string{fmt.Sprintf("process %d", f.v.PID), "prlimit"}, f.args(dir+"/image")...)
		f.check(t, dir)
		return
	}
	r := &running{Cmd: exec.Command("bash", append([]string{"-c", `ulimit -f 51200; exec "$0" "$@"`, program}, f.args(dir+"/image")...)...)}
	r.begin(t)
	r.end(t).says(t, 1, "file too large")
	f.check(t, dir)
}

func (f *failing) signalled(t *testing.T, s syscall.Signal) {
	dir := directory(t)
	do(t, os.WriteFile(dir+"/image", []byte("precious"), 0o600))
	r := start(t, f.args(dir+"/image", "--force", "--max-bandwidth=10M")...)
	until(t, f.v, r)
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	do(t, r.Process.Signal(s))
	r.end(t).says(t, 130, "interrupted")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v to end", took)
	}
	f.check(t, dir, "image")
	if b, err := os.ReadFile(dir + "/image"); err != nil || string(b) != "precious" {
		t.Errorf("the old image is %q, %v", b, err)
	}
}

// notPermitted runs as somebody who may not read the VM's memory, and then not even use its monitor.
func notPermitted(t *testing.T, i *intact) {
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	dir := directory(t)
	do(t, os.Chmod(dir, 0o777))
	mine := filepath.Join(directory(t), "ramjet")
	do(t, os.Chmod(filepath.Dir(mine), 0o755))
	b, err := os.ReadFile(program)
	do(t, err)
	do(t, os.WriteFile(mine, b, 0o755))
	asNobody := func() outcome {
		r := &running{Cmd: exec.Command(mine, "save", "--qmp", i.v.QMP, dir+"/image")}
		r.Dir = "/"
		r.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		r.begin(t)
		return r.end(t)
	}
	asNobody().says(t, 1, "no permission", i.v.QMP, "root")
	do(t, os.Chmod(i.v.Dir, 0o755))
	do(t, os.Chmod(i.v.QMP, 0o777))
	asNobody().says(t, 1, "no permission", fmt.Sprintf("process %d", i.v.PID), "root")
	i.check(t, dir)
}

// TestQEMUDies kills QEMU in the middle of a save.
func TestQEMUDies(t *testing.T) {
	for _, engine := range []string{"ramjet", "qemu"} {
		t.Run(engine, func(t *testing.T) {
			v := boot(t, vm.Config{Memory: "128M", Backend: vm.Memfd})
			dir := directory(t)
			r := start(t, "save", "--qmp", v.QMP, "--engine="+engine, "--max-bandwidth=10M", dir+"/image")
			until(t, v, r)
			time.Sleep(100 * time.Millisecond)
			do(t, v.Kill())
			began := time.Now()
			defer func() {
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %v to notice", took)
				}
			}()
			r.end(t).says(t, 1, fmt.Sprintf("QEMU, process %d, has ended", v.PID))
			nothingLeft(t, dir)
			noProcess(t)
		})
	}
}

// TestBlocked saves a VM that QEMU itself would not migrate.
func TestBlocked(t *testing.T) {
	v := boot(t, vm.Config{Memory: "128M", Fill: 20, ExtraArgs: []string{"-device", "nvme,serial=1"}})
	i := &intact{v, look(t, v, false)}
	for _, engine := range []string{"auto", "ramjet", "qemu"} {
		dir := directory(t)
		refused(t, 1, []string{"cannot be saved", "nvme"}, "save", "--qmp", v.QMP, "--engine="+engine, dir+"/image")
		i.check(t, dir)
	}
}

// TestFailedRestores gives restores the wrong command line. No QEMU is left.
func TestFailedRestores(t *testing.T) {
	v := boot(t, vm.Config{Memory: "256M", Fill: 20, ExtraArgs: []string{"-device", "virtio-rng-pci,id=rng7"}})
	i := lookBefore(t, v)
	image, _ := saveOf(t, v)
	replaced := func(old, with string) []string {
		args := v.ArgsIn(directory(t))
		for k, a := range args {
			if a == old {
				args[k] = with
			}
		}
		return append([]string{v.Program}, args...)
	}
	for _, c := range []struct {
		name    string
		command []string
		words   []string
	}{
		{"less memory", replaced("256M", "192M"), []string{"256 MiB", "192 MiB", "-m 256M"}},
		{"more memory", replaced("256M", "1G"), []string{"256 MiB", "1 GiB", "-m 256M"}},
		{"no such QEMU", []string{"/no/such/qemu", "-m", "256M"}, []string{"/no/such/qemu"}},
		{"unknown argument", append(replaced("", ""), "-nonsense"), []string{"-nonsense"}},
		{"unknown device", append(replaced("", ""), "-device", "nonsense"), []string{"nonsense"}},
		{"another machine", replaced("pc", "q35"), []string{"pc"}},
		{"a device less", replaced("virtio-rng-pci,id=rng7", "virtio-balloon-pci"), []string{"load"}},
		{"more blocks", append(replaced("", ""), "-device", "VGA"), []string{"vga", "devices"}},
	} {
		for _, mode := range []string{"instant", "eager"} {
			t.Run(c.name+" "+mode, func(t *testing.T) {
				r := start(t, append([]string{"restore", "--detach", "--mode", mode, image, "--"}, c.command...)...)
				r.end(t).says(t, 1, c.words...)
				noQEMU(t, image)
			})
		}
	}
	t.Run("socket in use", func(t *testing.T) {
		refused(t, 1, []string{v.QMP, "--qmp"}, "restore", "--detach", image)
		refused(t, 1, []string{v.QMP, "--qmp"}, append([]string{"restore", "--detach", image, "--qmp", v.QMP, "--", v.Program}, v.ArgsIn(directory(t))...)...)
		noQEMU(t, image)
	})
	i.check(t, filepath.Dir(image), "image")
}

// noQEMU checks that nobody has the image open any more.
func noQEMU(t *testing.T, image string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/fd/*")
	do(t, err)
	for _, fd := range all {
		if target, err := os.Readlink(fd); err == nil && target == image {
			t.Errorf("the image is still open: %s", fd)
		}
	}
	noProcess(t)
}
