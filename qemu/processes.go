// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// process is another process of this host.
type process struct {
	pid  int
	name string
}

// String is how errors name it; of the zero process, which is one that cannot be seen from here, it says that.
func (p process) String() string {
	switch {
	case p.pid == 0:
		return "a process that cannot be seen from here"
	case p.name == "":
		return fmt.Sprintf("process %d", p.pid)
	}
	return fmt.Sprintf("process %d (%s)", p.pid, p.name)
}

func named(pid int) process {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return process{pid, strings.TrimSpace(string(comm))}
}

// processes are the ids of all others.
func processes() (pids []int) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// holding finds a process that has a descriptor which match wants. Those of processes of other users are seen by root
// only.
func holding(match func(st *unix.Stat_t) bool, writing bool) (process, bool) {
	for _, pid := range processes() {
		if holds(pid, match, writing) {
			return named(pid), true
		}
	}
	return process{}, false
}

func holds(pid int, match func(st *unix.Stat_t) bool, writing bool) bool {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(dir.Fd()), n, &st, 0) == nil && match(&st) && (!writing || opensForWriting(pid, n)) {
			return true
		}
	}
	return false
}

// opensForWriting looks at the flags of a descriptor (proc_pid_fdinfo(5)).
func opensForWriting(pid int, fd string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b, []byte("flags:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	flags, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 8, 64)
	return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
}

// sameFile matches the file, or the block or character device, of st.
func sameFile(st *unix.Stat_t) func(*unix.Stat_t) bool {
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFBLK || kind == unix.S_IFCHR {
		return func(o *unix.Stat_t) bool { return o.Mode&unix.S_IFMT == kind && o.Rdev == st.Rdev }
	}
	return func(o *unix.Stat_t) bool { return o.Ino == st.Ino && o.Dev == st.Dev }
}

// holdingSocket finds the process that has the socket of that inode.
func holdingSocket(inode uint64) (process, bool) {
	return holding(func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFSOCK && st.Ino == inode }, false)
}

// otherQEMU is a QEMU of this host as it was started.
type otherQEMU struct {
	pid  int
	args cmdline.Args
	dir  string
}

// otherQEMUs are those whose command lines can be read.
func otherQEMUs() (found []otherQEMU) {
	for _, pid := range processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(b) == 0 {
			continue
		}
		words := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		if !strings.Contains(filepath.Base(words[0]), "qemu") {
			continue
		}
		dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		found = append(found, otherQEMU{pid, cmdline.ParseArgs(words[1:]), dir})
	}
	return found
}

// wants reports whether its command line asks for the same as e does here.
func (q otherQEMU) wants(e cmdline.Exclusive) bool {
	for _, o := range q.args.Exclusive(q.dir) {
		switch {
		case o.Kind != e.Kind:
		case e.Kind == cmdline.DiskKind:
			if sameFileIn(q.pid, o.Name, e.Name) {
				return true
			}
		case o.What == e.What && sameNetwork(q.pid):
			return true
		}
	}
	return false
}

// sameFileIn reports whether a path as process pid sees it is the same file as ours here.
func sameFileIn(pid int, theirs, ours string) bool {
	var a, b unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/root%s", pid, theirs), &a) != nil || unix.Stat(ours, &b) != nil {
		return false
	}
	return sameFile(&b)(&a)
}

// sameNetwork reports whether a process sees the same network interfaces and addresses as this one.
func sameNetwork(pid int) bool {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return true
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	return err != nil || theirs == ours
}
