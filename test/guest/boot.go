// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// moduleDir is where the initramfs has the kernel's virtio drivers, where the
// kernel does not have them built in.
const moduleDir = "/modules"

// boot does what an init does first: file systems, the console, drivers. The
// console it returns can be written to even if the error is not nil.
func boot() (*os.File, error) {
	for _, m := range []struct{ fs, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		os.Mkdir(m.dir, 0o755)
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && err != unix.EBUSY {
			return os.Stderr, err
		}
	}
	con, err := openConsole("/dev/ttyS0")
	if err != nil {
		return os.Stderr, err
	}
	quietKernel()
	return con, loadDrivers()
}

// quietKernel stops what the kernel does to memory in the background: it would
// fill pages that were freed, and be noise in what tests count.
func quietKernel() {
	for name, value := range map[string]string{
		"/sys/kernel/mm/transparent_hugepage/khugepaged/defrag":        "0",
		"/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none": "0",
		"/proc/sys/kernel/numa_balancing":                              "0",
		"/proc/sys/kernel/printk":                                      "3",
	} {
		os.WriteFile(name, []byte(value), 0) // a kernel without it needs none
	}
}

// openConsole opens the serial line and makes it carry bytes as they are: no
// echo, no editing, no carriage returns added. It stays in blocking mode, because
// Go's poller and a terminal of the kernel have nothing to gain from each other.
func openConsole(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// loadDrivers loads the modules of the initramfs if there is a virtio device
// that needs them. Files come in the order of their names, and a module whose
// dependency comes later is tried again.
func loadDrivers() error {
	if !hasVirtio() {
		return nil
	}
	left, _ := filepath.Glob(filepath.Join(moduleDir, "*.ko"))
	for {
		var failed []string
		var err error
		for _, name := range left {
			if e := loadModule(name); e != nil && e != unix.EEXIST {
				failed, err = append(failed, name), &os.PathError{Op: "load", Path: name, Err: e}
			}
		}
		if len(failed) == 0 || len(failed) == len(left) {
			return err
		}
		left = failed
	}
}

func loadModule(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// hasVirtio says whether a PCI device of virtio's vendor is there.
func hasVirtio() bool {
	names, _ := filepath.Glob("/sys/bus/pci/devices/*/vendor")
	for _, name := range names {
		if b, _ := os.ReadFile(name); strings.TrimSpace(string(b)) == "0x1af4" {
			return true
		}
	}
	return false
}

// kernelOptions returns the ramjet.* words of the kernel's command line.
func kernelOptions() map[string]string {
	options := make(map[string]string)
	line, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(line)) {
		if name, value, ok := strings.Cut(word, "="); ok {
			if name, ok = strings.CutPrefix(name, "ramjet."); ok {
				options[name] = value
			}
		}
	}
	return options
}

// powerOff ends the virtual machine. QEMU exits with status 0.
func powerOff() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for { // an init that returns panics the kernel
		time.Sleep(time.Hour)
	}
}
