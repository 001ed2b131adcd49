// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is where guests are run. What could not be found out is "".
type Host struct {
	QEMU        string `json:"qemu"`        // version, 10.0.2
	Accelerator string `json:"accelerator"` // tcg, kvm
	Kernel      string `json:"kernel"`      // version, 6.18.44
	FileSystem  string `json:"filesystem"`  // of a directory, as stat(1) calls it
	Libvirt     string `json:"libvirt"`     // version of virsh
	CPUs        int    `json:"cpus"`
}

// numbers are the numbers at the beginning of a version.
var numbers = regexp.MustCompile(`\d+(\.\d+)+`)

// ThisHost describes the machine, and the file system of a directory.
func ThisHost(dir string) Host {
	h := Host{Accelerator: Accelerator(), CPUs: runtime.NumCPU()}
	if v, err := Version(); err == nil {
		h.QEMU = fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2])
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = numbers.FindString(unix.ByteSliceToString(u.Release[:]))
	}
	if out, err := exec.Command("stat", "-f", "-c", "%T", dir).Output(); err == nil {
		h.FileSystem = strings.TrimSpace(string(out))
	}
	if out, err := exec.Command("virsh", "--version").Output(); err == nil {
		h.Libvirt = numbers.FindString(string(out))
	}
	return h
}
