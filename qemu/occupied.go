// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// CheckFree refuses a command line that asks for what another process has: QEMU would take a socket's path away from a
// VM that runs (unix_listen_saddr unlinks it), begin its log file anew, and write over its memory and its disks.
func (l *Launch) CheckFree() error {
	args := l.FinalArgs()
	wanted := args.Exclusive(l.Dir)
	if !l.sameNetwork() {
		wanted = slices.DeleteFunc(wanted, func(e cmdline.Exclusive) bool { return e.Kind == cmdline.TCPKind || e.Kind == cmdline.UDPKind })
	}
	var err error
	for range departures {
		if err = l.checkMonitors(args); err == nil {
			err = checkFree(wanted)
		}
		if err == nil {
			return nil
		}
		time.Sleep(departure)
	}
	return err
}

// A QEMU that was told to quit just before, by a save for example, is given departures times this long to end.
const departure, departures = 100 * time.Millisecond, 5

func checkFree(wanted []cmdline.Exclusive) error {
	qemus := sync.OnceValue(otherQEMUs)
	for _, e := range wanted {
		if p, is := taken(e, qemus); is {
			return fmt.Errorf("%s is in use by %s: %s", e.What, p, wayOut(e))
		}
	}
	return nil
}

// plainWrappers are commands that run QEMU in their own network namespace; others may not (ip netns exec).
var plainWrappers = []string{"nice", "ionice", "env", "taskset", "numactl", "chrt", "setpriv", "prlimit", "time", "nohup", "setsid", "stdbuf", "sudo"}

// sameNetwork reports whether QEMU will have this process's network, as far as is known.
func (l *Launch) sameNetwork() bool {
	return len(l.Wrapper) == 0 || slices.Contains(plainWrappers, filepath.Base(l.Wrapper[0]))
}

// wayOut is the advice to a user who needs an Exclusive that somebody else has.
func wayOut(e cmdline.Exclusive) string {
	const after = " (--set, or QEMU's arguments after --)"
	switch e.Kind {
	case cmdline.DiskKind, cmdline.RemoteDiskKind:
		return "end that VM first, or give this one a copy of the disk as it was at the save" + after
	case cmdline.MemoryFileKind:
		return "end that VM first, or give this one a file of its own" + after
	}
	return "end that first, or give this VM another" + after
}

// taken reports whether another process has an Exclusive, and which, if that can be found out. The command lines of
// this host's QEMUs are looked at for what leaves no other trace, and for disks: a QEMU that waits for its state, or
// was restored paused, has not opened its disks for writing yet.
func taken(e cmdline.Exclusive, qemus func() []otherQEMU) (p process, is bool) {
	switch e.Kind {
	case cmdline.SocketKind:
		return listeningAt(e.Name)
	case cmdline.TCPKind, cmdline.UDPKind:
		return portTaken(e.Kind, e.Name)
	case cmdline.MemoryFileKind, cmdline.FileKind, cmdline.DeviceFileKind:
		return writtenBy(e.Name, e.Kind)
	case cmdline.DiskKind:
		if p, is = writtenBy(e.Name, e.Kind); is {
			return p, true
		}
	}
	for _, q := range qemus() {
		if q.wants(e) {
			return named(q.pid), true
		}
	}
	return process{}, false
}

// OfDirectory reports whether an Exclusive is memory in a directory, in which every QEMU makes a file of its own.
func OfDirectory(e cmdline.Exclusive) bool {
	st, err := os.Stat(e.Name)
	return e.Kind == cmdline.MemoryFileKind && err == nil && st.IsDir()
}

// writtenBy reports whether another process has a file open for writing.
func writtenBy(path string, kind cmdline.Kind) (process, bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return process{}, false // there is none yet, or QEMU says why it cannot be opened
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return process{}, false
	case unix.S_IFCHR: // /dev/null and terminals are everybody's
		if kind != cmdline.DeviceFileKind {
			return process{}, false
		}
	case unix.S_IFREG:
		switch written, err := openedForWriting(path); {
		case err == nil && !written:
			return process{}, false
		case err == nil:
			p, _ := holding(sameFile(&st), true)
			return p, true
		}
	}
	return holding(sameFile(&st), true)
}

// openedForWriting asks the kernel whether anybody has a file open for writing, or mapped so: a read lease is refused
// then (fcntl(2), F_SETLEASE). It may be asked by the file's owner and root, of file systems of this host.
func openedForWriting(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if errors.Is(err, unix.EAGAIN) {
		return true, nil
	}
	return false, err // closing the file ends the lease
}
