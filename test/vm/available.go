// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Program is the QEMU that Start uses unless told otherwise.
func Program() string {
	if p := os.Getenv("RAMJET_QEMU"); p != "" {
		return p
	}
	return "qemu-system-x86_64"
}

// Available says why no guest can be started here, or nil: QEMU is missing or
// too old for mapped-ram with direct I/O (9.1), or the kernel or the checkout is
// missing. It runs QEMU once a process to ask its version.
var Available = sync.OnceValue(func() error {
	version, err := Version()
	if err != nil {
		return err
	}
	if version[0] < 9 || version[0] == 9 && version[1] < 1 {
		return fmt.Errorf("%s is version %d.%d, and 9.1 is needed: run scripts/setup", Program(), version[0], version[1])
	}
	if _, err := Kernel(); err != nil {
		return err
	}
	if _, err = checkout(); err == nil {
		err = accelerated()
	}
	return err
})

// accelerated says why guests cannot run on the accelerator that was asked for, or nil.
func accelerated() error {
	if Accelerator() != "kvm" {
		return nil
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("KVM was asked for (ACCEL=kvm, RAMJET_ACCEL), and cannot be used here: %w", err)
	}
	return f.Close()
}

var versionLine = regexp.MustCompile(`version (\d+)\.(\d+)\.(\d+)`)

// Version asks Program for its version: major, minor, micro.
func Version() ([3]int, error) {
	out, err := exec.Command(Program(), "--version").Output()
	if err != nil {
		return [3]int{}, fmt.Errorf("there is no QEMU (%w): run scripts/setup", err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return [3]int{}, fmt.Errorf("%s --version does not say a version", Program())
	}
	var v [3]int
	for i := range v {
		v[i], _ = strconv.Atoi(string(m[i+1]))
	}
	return v, nil
}

// Kernel is the path of the kernel image that guests boot.
func Kernel() (string, error) {
	if k := os.Getenv("RAMJET_KERNEL"); k != "" {
		return k, nil
	}
	top, err := checkout()
	if err != nil {
		return "", err
	}
	k := filepath.Join(top, ".cache/vmlinuz")
	if _, err := os.Stat(k); err != nil {
		return "", fmt.Errorf("there is no guest kernel (%w): run scripts/setup", err)
	}
	return k, nil
}

// kernelModules lists the drivers for the kernel; none if they are built in.
func kernelModules(top string) ([]string, error) {
	dir := os.Getenv("RAMJET_MODULES")
	if dir == "" {
		if os.Getenv("RAMJET_KERNEL") != "" {
			return nil, nil
		}
		dir = filepath.Join(top, ".cache/modules")
	}
	return filepath.Glob(filepath.Join(dir, "*.ko"))
}

const modulePath = "github.com/ramjet-vm/ramjet"

// checkout finds the top of Ramjet's source: at or above the working directory,
// or else at or above the running program.
var checkout = sync.OnceValues(func() (string, error) {
	var from []string
	if dir, err := os.Getwd(); err == nil {
		from = append(from, dir)
	}
	if exe, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(exe))
	}
	for _, dir := range from {
		for ; ; dir = filepath.Dir(dir) {
			b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && strings.HasPrefix(string(b), "module "+modulePath+"\n") {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("this needs Ramjet's source: run it in a checkout")
})
