// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// explainLock adds the disk and advice to QEMU's error about a disk's lock, which mostly names none.
func (c CommandLine) explainLock(said string) string {
	if !strings.Contains(said, "Failed to get ") || !strings.Contains(said, " lock") {
		return said
	}
	for _, d := range cmdline.ParseArgs(c.Args).Disks() {
		path := c.abs(d.Path)
		if !locked(path) {
			continue
		}
		holder := process{}
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			holder, _ = holding(sameFile(&st), false)
		}
		return fmt.Sprintf("the disk image %s is locked by %s: end the VM that has it, or give this one a copy of the disk as it was at the save (--set, or QEMU's arguments after --) (%s)",
			path, holder, said)
	}
	return said
}

// locked reports whether another process has one of QEMU's locks on an image (raw_apply_lock_bytes: bytes 100 to 103
// for what it does with it, 200 to 203 for what it lets nobody else do).
func locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: 100, Len: 128}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK
}
