// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Backend is what a guest's memory is made of.
type Backend int

const (
	// Anonymous is QEMU's default: private memory of the process.
	Anonymous Backend = iota
	// Memfd is memory-backend-memfd,share=on.
	Memfd
	// MemfdPrivate is memory-backend-memfd,share=off.
	MemfdPrivate
	// File is memory-backend-file,share=on.
	File
	// FilePrivate is memory-backend-file,share=off.
	FilePrivate
)

// String is the name of b as a test's name would have it.
func (b Backend) String() string {
	return [...]string{"anonymous", "memfd", "memfd-private", "file", "file-private"}[b]
}

// object is the -object argument of a backend of that id and size in bytes.
func (b Backend) object(id string, size int64, path string) string {
	o := fmt.Sprintf("memory-backend-%s,id=%s,size=%d", [...]string{"ram", "memfd", "memfd", "file", "file"}[b], id, size)
	switch b {
	case File, FilePrivate:
		o += ",mem-path=" + path
	}
	switch b {
	case Memfd, File:
		o += ",share=on"
	case MemfdPrivate, FilePrivate:
		o += ",share=off"
	}
	return o
}

// Accelerator is what guests run on: RAMJET_ACCEL (make test ACCEL=kvm), or tcg, because whether a
// machine's KVM can run a stock kernel shows only in trying.
func Accelerator() string { return cmp.Or(os.Getenv("RAMJET_ACCEL"), "tcg") }

// kernelLine are the words of the kernel's command line that make it boot
// quickly and print nothing that is not an accident.
const kernelLine = "console=ttyS0 quiet panic=-1 rdinit=/init " +
	"mitigations=off init_on_alloc=0 tsc=reliable no_timer_check random.trust_cpu=on 8250.nr_uarts=1 i8042.noaux i8042.nokbd " +
	"audit=0 lsm= cryptomgr.notests ipv6.disable=1"

// args builds QEMU's command line.
func (c Config) args(v *VM, kernel, initrd string) ([]string, error) {
	size, err := ParseSize(cmp.Or(c.Memory, "512M"))
	if err != nil {
		return nil, err
	}
	machine := cmp.Or(c.Machine, "pc")
	args := []string{"-accel", Accelerator(), "-nodefaults", "-display", "none", "-no-reboot"}
	args = append(args, "-m", strconv.FormatInt(size>>20, 10)+"M", "-smp", strconv.Itoa(max(c.CPUs, 1)))
	switch {
	case c.Nodes > 1:
		for i := range c.Nodes {
			id, path := fmt.Sprintf("ram%d", i), fmt.Sprintf("%s%d", v.memPath, i)
			share := size / int64(c.Nodes) >> 21 << 21
			if i == c.Nodes-1 {
				share = size - share*int64(c.Nodes-1)
			}
			args = append(args, "-object", c.Backend.object(id, share, path), "-numa", fmt.Sprintf("node,nodeid=%d,memdev=%s", i, id))
		}
	case c.Backend != Anonymous:
		args = append(args, "-object", c.Backend.object("ram0", size, v.memPath))
		machine += ",memory-backend=ram0"
	}
	args = append(args, "-machine", machine, "-kernel", kernel, "-initrd", initrd, "-append", c.kernelCommand())
	args = append(args,
		"-qmp", "unix:"+v.QMP+",server=on,wait=off",
		"-chardev", "socket,id=own,path="+v.monitor+",server=on,wait=off", "-mon", "chardev=own,mode=control",
		"-chardev", "socket,id=serial,path="+v.Serial+",server=on,wait=off", "-serial", "chardev:serial")
	if c.Disk != "" {
		format := "raw"
		if strings.HasSuffix(c.Disk, ".qcow2") {
			format = "qcow2"
		}
		args = append(args, "-drive", "if=none,id=disk0,format="+format+",file="+c.Disk, "-device", "virtio-blk-pci,drive=disk0")
	}
	if c.Net {
		args = append(args, "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0")
	}
	if c.Balloon {
		args = append(args, "-device", "virtio-balloon-pci")
	}
	return append(args, c.ExtraArgs...), nil
}

// KernelCommand is the kernel's command line for c, for those who start the guest by other means.
func (c Config) KernelCommand() string { return c.kernelCommand() }

func (c Config) kernelCommand() string {
	words := []string{kernelLine, fmt.Sprintf("ramjet.seed=%d ramjet.fill=%d", c.Seed, c.Fill)}
	for _, o := range []struct {
		name  string
		value int
	}{{"tick", int(c.Tick.Milliseconds())}, {"dirty", c.Dirty}, {"watch", c.Watch}} {
		if o.value != 0 {
			words = append(words, fmt.Sprintf("ramjet.%s=%d", o.name, o.value))
		}
	}
	if c.Append != "" {
		words = append(words, c.Append)
	}
	return strings.Join(words, " ")
}

// ArgsIn are the arguments of v with its sockets, and a backend's default file,
// in another directory: for a restored VM that shall not take v's.
func (v *VM) ArgsIn(dir string) []string {
	args := make([]string, len(v.Args))
	for i, a := range v.Args {
		args[i] = strings.ReplaceAll(a, v.Dir+"/", dir+"/")
	}
	return args
}

// ParseSize reads a size as -m takes it: bytes in MiB, or with a suffix M or G.
func ParseSize(s string) (int64, error) {
	shift := 20
	digits := strings.TrimRight(s, "MmGg")
	if suffix := s[len(digits):]; strings.EqualFold(suffix, "G") {
		shift = 30
	} else if suffix != "" && !strings.EqualFold(suffix, "M") {
		return 0, fmt.Errorf("%q is not a memory size", s)
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is not a memory size", s)
	}
	return n << shift, nil
}
