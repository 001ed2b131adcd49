// SPDX-License-Identifier: Apache-2.0

package uffd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// gadgets are two places in the code of a process: every C library has both.
type gadgets struct {
	syscallRet uint64 // syscall; ret
	restoreRT  uint64 // mov $15, %rax (or %eax); syscall: what signal handlers return to
}

// errNoGadgets: the process runs none of the C libraries that are known, or its code cannot be read.
var errNoGadgets = errors.New("the code of the process has no return from a signal handler that Ramjet knows (glibc and musl have)")

var (
	syscallRet = []byte{0x0f, 0x05, 0xc3}
	restoreRT  = [][]byte{
		{0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05}, // glibc: mov $15, %rax
		{0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05},             // mov $15, %eax
	}
)

// code is a mapping of executable memory.
type code struct {
	start, end uint64
	name       string
}

// findGadgets looks through the code of a process, its C library first.
func findGadgets(pid int) (g gadgets, err error) {
	all, err := executable(pid)
	if err != nil {
		return g, err
	}
	for _, c := range all {
		b := make([]byte, c.end-c.start)
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(len(b))
		n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(c.start), Len: len(b)}}, 0)
		if err != nil {
			continue
		}
		b = b[:n]
		if i := bytes.Index(b, syscallRet); g.syscallRet == 0 && i >= 0 {
			g.syscallRet = c.start + uint64(i)
		}
		for _, r := range restoreRT {
			if i := bytes.Index(b, r); g.restoreRT == 0 && i >= 0 {
				g.restoreRT = c.start + uint64(i)
			}
		}
		if g.syscallRet != 0 && g.restoreRT != 0 {
			return g, nil
		}
	}
	return g, errNoGadgets
}

// executable lists the readable code of a process, the C library first. The vsyscall page is left out: the kernel emulates it.
func executable(pid int) (all []code, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var c code
		var perms, offset, device, inode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %s", &c.start, &c.end, &perms, &offset, &device, &inode); n < 6 {
			continue
		}
		if i := strings.IndexAny(lines.Text(), "/["); i >= 0 {
			c.name = lines.Text()[i:]
		}
		if strings.HasPrefix(perms, "r-x") && c.name != "[vsyscall]" {
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b code) int { return isLibC(b) - isLibC(a) })
	return all, lines.Err()
}

func isLibC(c code) int {
	if strings.Contains(c.name, "/libc.so") || strings.Contains(c.name, "/libc-2") || strings.Contains(c.name, "/ld-musl") {
		return 1
	}
	return 0
}
