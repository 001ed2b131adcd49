// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestOccupied (15.6) restores a VM while another has what it asks for, one thing after the other, in each mode. Each time the thing
// and its process are named and nothing of the running VM is touched.
func TestOccupied(t *testing.T) {
	vm.Need(t)
	dir := directory(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"plain", "unlocked", "json", "filename", "node", "exported", "nvdimm"} {
		do(t, os.WriteFile(in(name), make([]byte, 8<<20), 0o600))
	}
	// A server that lets several write to a disk: only QEMUs' command lines tell that one does.
	nbd := in("nbd")
	process(t, nbd, exec.Command("qemu-nbd", "-f", "raw", "-k", nbd, "-e", "9", "-t", in("exported")))
	forwarded := fmt.Sprint(freePort(t))
	things := []struct {
		args  []string
		names string // what the error has in it
		modes []string
	}{
		{[]string{"-serial", "unix:" + in("serial") + ",server=on,wait=off"}, in("serial"), nil},
		{[]string{"-chardev", "socket,id=ga,path=" + in("agent") + ",server=on,wait=off"}, in("agent"), nil},
		{[]string{"-vnc", "unix:" + in("vnc")}, in("vnc"), nil},
		{[]string{"-netdev", "user,id=n0,hostfwd=tcp:127.0.0.1:" + forwarded + "-:22"}, "port " + forwarded, nil},
		{[]string{"-chardev", "file,id=log,path=" + in("log")}, in("log"), nil},
		{[]string{"-object", "memory-backend-file,id=ram,size=16M,mem-path=" + in("memory") + ",share=on", "-machine", "memory-backend=ram"}, in("memory"), []string{"eager"}},
		{[]string{"-drive", "if=none,id=d0,format=raw,file=" + in("plain"), "-device", "virtio-blk-pci,drive=d0"}, in("plain"), nil},
		{[]string{"-drive", "if=none,id=d1,format=raw,file.locking=off,file=" + in("unlocked"), "-device", "virtio-blk-pci,drive=d1"}, in("unlocked"), nil},
		{[]string{"-drive", `if=none,id=d2,file=json:{"driver":"raw",,"file":{"driver":"file",,"locking":"off",,"filename":"` + in("json") + `"}}`, "-device", "virtio-blk-pci,drive=d2"}, in("json"), nil},
		{[]string{"-drive", "if=none,id=d3,driver=raw,file.locking=off,file.filename=" + in("filename"), "-device", "virtio-blk-pci,drive=d3"}, in("filename"), nil},
		{[]string{"-blockdev", `{"driver":"raw","node-name":"d4","file":{"driver":"file","locking":"off","filename":"` + in("node") + `"}}`, "-device", "virtio-blk-pci,drive=d4"}, in("node"), nil},
		{[]string{"-drive", "if=none,id=d5,format=raw,file=nbd:unix:" + nbd, "-device", "virtio-blk-pci,drive=d5"}, "nbd:unix:" + nbd, nil},
	}
	var all []string
	for _, thing := range things {
		all = append(all, thing.args...)
	}
	pid := bareQEMU(t, dir, all...)
	image := filepath.Join(directory(t), "image")
	must[save.Result](t, "save", "--qmp", in("qmp"), image)
	before := sockets(t, dir)
	for _, thing := range things {
		modes := thing.modes
		if modes == nil {
			modes = []string{"instant", "eager"}
		}
		for _, mode := range modes {
			args := append([]string{"restore", "--detach", "--mode", mode, image, "--", vm.Program()}, bareArgs(directory(t), thing.args...)...)
			o := refused(t, 1, []string{thing.names, fmt.Sprint("process ", pid)}, args...)
			if strings.Contains(o.err, "--mode=eager") {
				t.Errorf("%s: advises what does the damage", strings.TrimSpace(o.err))
			}
		}
	}
	t.Run("as recorded", func(t *testing.T) {
		other := filepath.Join(directory(t), "other")
		for _, mode := range []string{"instant", "eager"} {
			refused(t, 1, []string{fmt.Sprint("process ", pid)}, "restore", "--detach", "--qmp", other, "--mode", mode, image)
			refused(t, 1, []string{fmt.Sprint("process ", pid)}, "clone", "-n", "1", "--detach", "--qmp", filepath.Dir(other), "--mode", mode, image)
		}
	})
	t.Run("clone over a disk that no overlay can come over", func(t *testing.T) {
		args := []string{"clone", "-n", "1", "--overlay", "--detach", "--qmp", directory(t), image, "--", vm.Program(), "-nodefaults", "-m", "16M"}
		refused(t, 1, []string{"no overlay", "nbd:unix:/run/nobody", "{n}"}, append(args, "-drive", "if=none,file=nbd:unix:/run/nobody")...)
	})
	t.Run("not advised", func(t *testing.T) { // what cannot be mapped, in memory that the running VM has
		args := append([]string{"restore", "--detach", image, "--", vm.Program()},
			bareArgs(directory(t), append(things[5].args, "-device", "ivshmem-plain,memdev=ram")...)...)
		if o := refused(t, 1, []string{in("memory")}, args...); strings.Contains(o.err, "eager") {
			t.Errorf("%s: advises what does the damage", strings.TrimSpace(o.err))
		}
	})
	t.Run("read-only memory", func(t *testing.T) {
		for _, share := range []string{"on", "off"} {
			args := []string{"-object", "memory-backend-file,id=ram,size=16M,readonly=on,mem-path=" + in("nvdimm") + ",share=" + share, "-machine", "memory-backend=ram"}
			refused(t, 1, []string{"readonly=on", in("nvdimm"), "--mode=instant"}, append([]string{"restore", "--detach", "--mode", "eager", image, "--", vm.Program()}, bareArgs(directory(t), args...)...)...)
		}
	})
	if after := sockets(t, dir); after != before {
		t.Errorf("the running VM's sockets are %s, were %s", after, before)
	}
	if s := stateAt(in("qmp")); s != "running" {
		t.Errorf("the running VM is %q", s)
	}
}

// sockets are the names and inodes of the files in a directory.
func sockets(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("ls", "-i", dir).Output()
	do(t, err)
	return string(out)
}
