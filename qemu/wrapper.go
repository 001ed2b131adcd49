// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// descendants are a process and all that have it for an ancestor, parents first.
func descendants(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// PID (NAME) STATE PPID ..., and NAME may have anything in it.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// killTree ends a process and its descendants: a wrapper may have forked to run QEMU.
func killTree(pid int) {
	for _, p := range descendants(pid) {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

// qemuBehind is the process that a wrapper runs QEMU in: the last of its descendants, or itself, with this word on its
// command line.
func qemuBehind(pid int, word string) int {
	for _, p := range slices.Backward(descendants(pid)) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
		if slices.Contains(strings.Split(string(line), "\x00"), word) {
			return p
		}
	}
	return pid
}
