// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// kinds are the kinds of VM that TestAnyVM tries.
var kinds = []kind{
	{name: "pc-2.4", args: "-machine pc-i440fx-2.4", short: true},
	{name: "pc-2.9", args: "-machine pc-i440fx-2.9"},
	{name: "pc-2.12", args: "-machine pc-i440fx-2.12", runs: true},
	{name: "pc-3.1", args: "-machine pc-i440fx-3.1 -device VGA", short: true, runs: true},
	{name: "pc-3.1-memfd", args: "-machine pc-i440fx-3.1,memory-backend=mem -object memory-backend-memfd,id=mem,size=32M,share=on", short: true},
	{name: "pc-4.0", args: "-machine pc-i440fx-4.0"},
	{name: "pc-4.2", args: "-machine pc-i440fx-4.2"},
	{name: "pc-5.2", args: "-machine pc-i440fx-5.2"},
	{name: "pc-6.2", args: "-machine pc-i440fx-6.2"},
	{name: "pc-7.2", args: "-machine pc-i440fx-7.2", runs: true},
	{name: "pc-8.2", args: "-machine pc-i440fx-8.2"},
	{name: "pc-9.2", args: "-machine pc-i440fx-9.2"},
	{name: "default", args: "", short: true, runs: true},
	{name: "pc", args: "-machine pc -device VGA", runs: true},
	{name: "q35-2.4", args: "-machine pc-q35-2.4"},
	{name: "q35-3.1-numa", args: "-machine pc-q35-3.1 -m 64M " + nodes + " -smp 2", short: true},
	{name: "q35-4.1", args: "-machine pc-q35-4.1", runs: true},
	{name: "q35-6.0", args: "-machine pc-q35-6.0"},
	{name: "q35-8.1", args: "-machine pc-q35-8.1"},
	{name: "q35", args: "-machine q35 -smp 4 -cpu max -device VGA -device virtio-net-pci -device e1000", short: true, runs: true},
	{name: "microvm", args: "-machine microvm", short: true, runs: true},
	{name: "isapc", args: "-machine isapc -cpu qemu32", short: true, runs: true},

	{name: "mem-path", args: "-machine q35 -mem-path DIR"},
	{name: "prealloc", args: "-mem-prealloc"},
	{name: "memfd", args: "-machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=32M", short: true, runs: true},
	{name: "memfd-private", args: "-machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=32M,share=off"},
	{name: "file", args: "-machine q35,memory-backend=mem -object memory-backend-file,id=mem,size=32M,mem-path=DIR/ram,share=on", short: true, runs: true},
	{name: "file-relative", args: "-machine q35,memory-backend=mem -object memory-backend-file,id=mem,size=32M,mem-path=ram,share=on"},
	{name: "file-private", args: "-machine q35,memory-backend=mem -object memory-backend-file,id=mem,size=32M,mem-path=DIR/ram,share=off"},
	{name: "shm", args: "-machine q35,memory-backend=mem -object memory-backend-shm,id=mem,size=32M", short: true},
	{name: "ram-shared", args: "-machine q35,memory-backend=mem -object memory-backend-ram,id=mem,size=32M,share=on"},
	{name: "no-reserve", args: "-machine q35,memory-backend=mem -object memory-backend-ram,id=mem,size=32M,reserve=off", short: true},
	{name: "hugetlb-memfd", args: "-machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=32M,hugetlb=on,hugetlbsize=2M",
		prepare: hugePages, instant: "huge pages", short: true},
	{name: "hugetlb-private", args: "-machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=32M,hugetlb=on,hugetlbsize=2M,share=off",
		prepare: hugePages, instant: "huge pages"},
	{name: "hugetlbfs", args: "-machine q35,memory-backend=mem -object memory-backend-file,id=mem,size=32M,mem-path=DIR/hugepages/ram,share=on", prepare: hugeFileSystem, instant: "huge pages"},
	{name: "numa", args: "-m 64M " + nodes + " -smp 2", runs: true},
	{name: "numa-memfd", args: "-machine q35 -m 64M " + strings.ReplaceAll(nodes, "-ram", "-memfd") + " -smp 2"},
	{name: "below-4g", args: "-machine q35,max-ram-below-4g=16M -m 64M"},
	{name: "aux-ram-share", args: "-machine q35,aux-ram-share=on -device VGA"},

	{name: "pflash", args: "-machine q35,pflash0=code,pflash1=vars -m 64M " +
		"-blockdev driver=file,node-name=code,filename=/usr/share/OVMF/OVMF_CODE_4M.fd,read-only=on -blockdev driver=file,node-name=vars,filename=DIR/vars.fd",
		prepare: pflash, short: true, runs: true},
	{name: "tpm-tis", args: "-machine q35 " + tpm + " -device tpm-tis,tpmdev=tpm", prepare: softwareTPM, short: true, runs: true},
	{name: "tpm-crb", args: "-machine q35 " + tpm + " -device tpm-crb,tpmdev=tpm", prepare: softwareTPM},
	{name: "pc-dimm", args: "-machine q35 -m 32M,slots=2,maxmem=1G -object memory-backend-ram,id=mem1,size=128M -device pc-dimm,memdev=mem1", short: true},
	{name: "nvdimm", args: "-machine q35,nvdimm=on -m 32M,slots=2,maxmem=1G -object memory-backend-file,id=mem1,size=16M,mem-path=DIR/nv,share=on -device nvdimm,memdev=mem1", instant: "nvdimm"},
	{name: "virtio-mem", args: "-machine q35 -m 32M,maxmem=1G -object memory-backend-ram,id=mem1,size=128M -device virtio-mem-pci,memdev=mem1,requested-size=64M", runs: true},
	{name: "spice", args: "-machine q35 -spice unix=on,addr=DIR/spice,disable-ticketing=on -device qxl-vga", prepare: needsSPICE, short: true, runs: true},
	{name: "iothreads", args: "-machine q35 -object iothread,id=t0 -object iothread,id=t1 -drive if=none,id=d,file=DIR/disk,format=raw -device virtio-blk-pci,drive=d,iothread=t0 " +
		"-device virtio-scsi-pci,iothread=t1", prepare: rawDisk, short: true, runs: true},
	{name: "sandbox", args: "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", short: true, runs: true},
	{name: "daemonize", args: "-daemonize -pidfile DIR/pid", runs: true},
	{name: "daemonize-relative", args: "-daemonize -qmp unix:qmp,server=on,wait=off -drive if=virtio,file=disk,format=raw -pidfile pid", prepare: rawDisk, short: true, runs: true},
	{name: "readconfig", args: "-readconfig vm.cfg", prepare: configuration, short: true, runs: true},
	{name: "json", args: `-machine q35,memory-backend=mem -object {"qom-type":"memory-backend-memfd","id":"mem","size":33554432,"share":true} ` +
		`-blockdev {"driver":"raw","node-name":"d","file":{"driver":"file","filename":"DIR/disk"}} -device {"driver":"virtio-blk-pci","drive":"d","id":"v","bootindex":1} ` +
		`-netdev {"type":"user","id":"n"} -device {"driver":"virtio-net-pci","netdev":"n"} -chardev socket,id=q,path=DIR/qmp,server=on,wait=off -mon chardev=q,mode=control`,
		prepare: rawDisk, short: true, runs: true},
	{name: "chroot", args: "-run-with chroot=DIR,user=nobody", given: true, recorded: "process of user", runs: true},
	{name: "user", args: "-run-with user=nobody -drive if=virtio,file=disk,format=raw", prepare: rawDisk, given: true, recorded: "process of user", short: true, runs: true},
	{name: "qmp-pretty", args: "-qmp-pretty unix:DIR/qmp,server=on,wait=off", short: true, runs: true},
	{name: "loadvm", args: "-drive if=virtio,file=DIR/disk.qcow2,format=qcow2 -loadvm there", prepare: internalSnapshot, short: true},
	{name: "usb-audio-panic", args: "-machine q35 -device qemu-xhci -device usb-tablet -device intel-hda -device hda-duplex,audiodev=a -audiodev none,id=a -device pvpanic -device vmgenid " +
		"-device virtio-rng-pci -device virtio-balloon-pci -device virtio-serial-pci -device ipmi-bmc-sim,id=b -device virtio-gpu-pci"},
	{name: "icount", args: "-icount shift=3 -rtc clock=vm", runs: true},
	{name: "ivshmem", args: "-object memory-backend-file,id=mem1,size=8M,mem-path=DIR/shared,share=on -device ivshmem-plain,memdev=mem1,master=on", instant: "ivshmem"},

	{name: "wrapped", args: "-machine q35", prepare: wrapped("nice", "-n", "1", "env", "-u", "NOBODY"), given: true, short: true, runs: true},
	{name: "wrapped-setpriv", args: "", prepare: wrapped("setpriv", "--inh-caps=-all"), given: true},
	{name: "wrapped-netns", args: "", prepare: namespace, given: true},
	{name: "wrapper-forks", args: "", prepare: wrapped("unshare", "--fork", "--pid"), given: true},
	{name: "inherited", args: "-device virtio-serial-pci -chardev socket,id=s,fd=3 -device virtserialport,chardev=s", prepare: inherited, short: true,
		instant: "-chardev socket,id=s,fd=3", eager: "-chardev socket,id=s,fd=3"},
	{name: "add-fd", args: "-add-fd fd=3,set=2 -drive if=virtio,file=/dev/fdset/2,format=raw,read-only=on", prepare: inheritedDisk,
		instant: "-add-fd fd=3,set=2", eager: "-add-fd fd=3,set=2"},
	{name: "hot-plugged-dimm", args: "-machine q35 -m 32M,slots=2,maxmem=1G", hotplug: plugDIMM, short: true, given: true,
		recorded: "dimm1 (pc-dimm) was plugged in", instant: "-object memory-backend-ram,id=mem1,size=128M -device pc-dimm,memdev=mem1", eager: "-object memory-backend-ram,id=mem1,size=128M -device pc-dimm,memdev=mem1"},
	{name: "rom-size", args: "-device e1000,romfile=DIR/rom", prepare: growingROM, short: true, instant: "romfile=", eager: "romfile="},
	{name: "hot-plugged-net", args: "-machine q35 -device pcie-root-port,id=p", hotplug: plugNet, given: true, recorded: "net1 (virtio-net-pci) was plugged in", instant: "virtio-net", eager: "virtio-net"},
}

const (
	nodes = "-object memory-backend-ram,id=mem0,size=32M -object memory-backend-ram,id=mem1,size=32M -numa node,memdev=mem0,cpus=0 -numa node,memdev=mem1,cpus=1"
	tpm   = "-chardev socket,id=tpm,path=DIR/tpm.sock -tpmdev emulator,id=tpm,chardev=tpm"
)

// hugePages reserves some for the test.
func hugePages(t *testing.T, v *anyVM) {
	const path, pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 20
	was, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("no huge pages here: %v", err)
	}
	var n int
	fmt.Sscan(string(was), &n)
	if n >= pages {
		return
	}
	err = os.WriteFile(path, []byte(fmt.Sprint(pages)), 0)
	if now, _ := os.ReadFile(path); err != nil || strings.TrimSpace(string(now)) != fmt.Sprint(pages) {
		t.Skipf("cannot reserve huge pages: %v", err)
	}
	t.Cleanup(func() { os.WriteFile(path, was, 0) })
}

// hugeFileSystem mounts hugetlbfs.
func hugeFileSystem(t *testing.T, v *anyVM) {
	hugePages(t, v)
	dir := filepath.Join(v.dir, "hugepages")
	if os.Mkdir(dir, 0o700) != nil {
		return // it is there already
	}
	if err := unix.Mount("none", dir, "hugetlbfs", 0, "pagesize=2M"); err != nil {
		t.Skipf("no hugetlbfs: %v", err)
	}
	t.Cleanup(func() { do(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

func pflash(t *testing.T, v *anyVM) {
	vars, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		t.Skipf("no UEFI firmware here: %v", err)
	}
	if v.args != nil {
		do(t, os.WriteFile(filepath.Join(v.dir, "vars.fd"), vars, 0o600))
	}
}

// tpms are the swtpms by their VM's directory.
var tpms = map[string]*exec.Cmd{}

// softwareTPM starts an swtpm, which ends with its QEMU.
func softwareTPM(t *testing.T, v *anyVM) {
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("no swtpm here")
	}
	socket := filepath.Join(v.dir, "tpm.sock")
	state, err := os.MkdirTemp(v.dir, "tpm") // what it holds comes back with the image
	do(t, err)
	c := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+socket, "--terminate")
	if last, ok := tpms[v.dir]; ok {
		last.Process.Kill() // it would take the socket of the next one away when it ends
		last.Wait()
	}
	os.Remove(socket)
	do(t, c.Start())
	tpms[v.dir] = c
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal("swtpm does not start")
		}
	}
}

func needsSPICE(t *testing.T, v *anyVM) {
	if out, _ := exec.Command(vm.Program(), "-device", "help").Output(); !strings.Contains(string(out), `"qxl-vga"`) {
		t.Skip("this QEMU has no SPICE")
	}
}

func rawDisk(t *testing.T, v *anyVM) {
	path := filepath.Join(v.dir, "disk")
	if _, err := os.Stat(path); err != nil {
		do(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
		do(t, os.Chmod(path, 0o666)) // a user that QEMU becomes opens it again
		do(t, os.Chmod(v.dir, 0o777))
	}
}

// configuration is the file of -readconfig.
func configuration(t *testing.T, v *anyVM) {
	rawDisk(t, v)
	text := `# a machine
[machine]
  type = "q35"
  memory-backend = "mem"
[memory]
  size = "32M"
[object "mem"]
  qom-type = "memory-backend-memfd"
  size = "32M"
  share = "on"
[drive "d"]
  file = "` + v.dir + `/disk"
  format = "raw"
  if = "none"
[device "v"]
  driver = "virtio-blk-pci"
  drive = "d"
[chardev "q"]
  backend = "socket"
  path = "` + v.dir + `/qmp"
  server = "on"
  wait = "off"
[mon "m"]
  chardev = "q"
  mode = "control"
`
	do(t, os.WriteFile(filepath.Join(v.dir, "vm.cfg"), []byte(text), 0o600))
}

// internalSnapshot makes a qcow2 image with a snapshot in it, of a machine of this kind.
func internalSnapshot(t *testing.T, v *anyVM) {
	if v.args == nil {
		return
	}
	disk := filepath.Join(v.dir, "disk.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M").CombinedOutput(); err != nil {
		t.Skipf("qemu-img: %v, %s", err, out)
	}
	first := &anyVM{dir: v.dir, qmp: v.qmp}
	for _, a := range v.args {
		if a != "-loadvm" && a != "there" {
			first.args = append(first.args, a)
		}
	}
	m := first.start(t)
	var said string
	do(t, m.Execute(t.Context(), "human-monitor-command", map[string]string{"command-line": "savevm there"}, &said))
	if said != "" {
		t.Fatalf("savevm: %s", said)
	}
	m.Close()
	first.quit(t)
}

// wrapped puts words before QEMU.
func wrapped(words ...string) func(*testing.T, *anyVM) {
	return func(t *testing.T, v *anyVM) {
		if _, err := exec.LookPath(words[0]); err != nil {
			t.Skip(err)
		}
		v.wrapper = words
	}
}

func namespace(t *testing.T, v *anyVM) {
	name := fmt.Sprintf("ramjet-%d", os.Getpid())
	if v.args != nil {
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Skipf("no network namespaces here: %v, %s", err, out)
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "delete", name).Run() })
	}
	v.wrapper = []string{"ip", "netns", "exec", name}
}

func inherited(t *testing.T, v *anyVM) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	do(t, err)
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		v.files = append(v.files, f)
	}
}

func inheritedDisk(t *testing.T, v *anyVM) {
	rawDisk(t, v)
	f, err := os.Open(filepath.Join(v.dir, "disk"))
	do(t, err)
	t.Cleanup(func() { f.Close() })
	v.files = []*os.File{f}
}

// growingROM makes an option ROM, and in its place a larger one when the VM is restored.
func growingROM(t *testing.T, v *anyVM) {
	size := 64 << 10
	if v.args == nil {
		size = 128 << 10
	}
	do(t, os.WriteFile(filepath.Join(v.dir, "rom"), make([]byte, size), 0o600))
}

func plugDIMM(t *testing.T, m *qmp.Client) {
	do(t, m.Execute(t.Context(), "object-add", map[string]any{"qom-type": "memory-backend-ram", "id": "mem1", "size": 128 << 20}, nil))
	do(t, m.Execute(t.Context(), "device_add", map[string]any{"driver": "pc-dimm", "id": "dimm1", "memdev": "mem1"}, nil))
}

func plugNet(t *testing.T, m *qmp.Client) {
	do(t, m.Execute(t.Context(), "device_add", map[string]any{"driver": "virtio-net-pci", "id": "net1", "bus": "p", "romfile": ""}, nil))
}
