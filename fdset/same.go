// SPDX-License-Identifier: Apache-2.0

package fdset

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Answer is what is known about two descriptors.
type Answer int

// Unknown is the answer where the kernel does not say: one older than 6.10
// without kcmp(2), which containers and seccomp filters often forbid.
const (
	Unknown Answer = iota
	Same
	Different
)

func (a Answer) String() string { return [...]string{"unknown", "same", "different"}[a] }

// calls are the system calls by which descriptors are looked at, so that tests
// can put other kernels and file systems in their place.
type calls struct {
	dupQuery func(a, b int) (int, error)
	kcmp     func(a, b int) (int, error)
	statx    func(fd int, mask int, st *unix.Statx_t) error
	fstatfs  func(fd int, st *unix.Statfs_t) error
}

var sys = calls{
	// fcntl(a, F_DUPFD_QUERY, b), Linux 6.10: 1 if they are the same.
	dupQuery: func(a, b int) (int, error) { return unix.FcntlInt(uintptr(a), unix.F_DUPFD_QUERY, b) },
	// kcmp(2) with KCMP_FILE: 0 if they are the same, otherwise an order.
	kcmp: func(a, b int) (int, error) {
		const kcmpFile = 0
		pid := uintptr(os.Getpid())
		r, _, e := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
		if e != 0 {
			return 0, e
		}
		return int(r), nil
	},
	statx: func(fd int, mask int, st *unix.Statx_t) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, mask, st)
	},
	fstatfs: unix.Fstatfs,
}

// SameDescription reports whether a and b are one open file description, as after
// dup(2) or passing one descriptor twice, and so share position and flags.
func SameDescription(a, b *os.File) (Answer, error) {
	defer runtime.KeepAlive(a)
	defer runtime.KeepAlive(b)
	x, err := rawFD(a)
	if err != nil {
		return Unknown, err
	}
	y, err := rawFD(b)
	if err != nil {
		return Unknown, err
	}
	return sameDescription(x, y)
}

func sameDescription(a, b int) (Answer, error) {
	switch n, err := sys.dupQuery(a, b); {
	case err == unix.EBADF:
		return Unknown, os.NewSyscallError("fcntl", err)
	case err == nil:
		return answer(n == 1), nil
	}
	n, err := sys.kcmp(a, b)
	switch {
	case err == unix.EBADF:
		return Unknown, os.NewSyscallError("kcmp", err)
	case err != nil:
		return Unknown, nil
	}
	return answer(n == 0), nil
}

func answer(same bool) Answer {
	if same {
		return Same
	}
	return Different
}

// SameFile reports whether a and b are the same file, by device and inode, or the
// same block device by its number.
func SameFile(a, b *os.File) (bool, error) {
	var st [2]unix.Stat_t
	for i, f := range []*os.File{a, b} {
		fd, err := rawFD(f)
		if err != nil {
			return false, err
		}
		if err := unix.Fstat(fd, &st[i]); err != nil {
			return false, os.NewSyscallError("fstat", err)
		}
		runtime.KeepAlive(f)
	}
	return sameFile(&st[0], &st[1]), nil
}

func sameFile(a, b *unix.Stat_t) bool {
	if a.Mode&unix.S_IFMT == unix.S_IFBLK && b.Mode&unix.S_IFMT == unix.S_IFBLK {
		return a.Rdev == b.Rdev
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}
