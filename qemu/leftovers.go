// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"os"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// leftovers are the sockets and files that a command line has QEMU make, as they were before it started: nil for those that were not there.
// One that is killed before its guest ran leaves them.
type leftovers map[string]os.FileInfo

// lookBefore notes what is there before QEMU is started.
func (l *Launch) lookBefore() leftovers {
	before := leftovers{}
	for _, e := range l.FinalArgs().Exclusive(l.Dir) {
		switch e.Kind {
		case cmdline.SocketKind, cmdline.FileKind, cmdline.MemoryFileKind:
			before[e.Name], _ = os.Lstat(e.Name)
		}
	}
	return before
}

// remove removes what QEMU made: files where there were none, and sockets that are not those of before.
func (before leftovers) remove() {
	for path, was := range before {
		now, err := os.Lstat(path)
		switch {
		case err != nil:
		case was == nil && (now.Mode().IsRegular() || now.Mode()&os.ModeSocket != 0),
			was != nil && now.Mode()&os.ModeSocket != 0 && !os.SameFile(was, now):
			os.Remove(path)
		}
	}
}
