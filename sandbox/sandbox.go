// SPDX-License-Identifier: Apache-2.0

// Package sandbox has this process give up, for good and in all of its threads, what it does not need any more: system calls (seccomp),
// the file system (Landlock), and programs that have more rights than it (no_new_privs).
//
// Each does as much as the kernel can and returns what could not be had, which is for a log: nothing depends on it.
package sandbox

import (
	"errors"
	"fmt"
	"sync/atomic"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Right is access to a part of the file system.
type Right = landlock.Rule

// Names is the right to list a directory, and to make, rename and remove the names of files in it and below; to open none of
// them.
func Names(dir string) Right {
	return landlock.PathAccess(ll.AccessFSMakeReg|ll.AccessFSRemoveFile|ll.AccessFSReadDir, dir)
}

// Files gives up the file system but for rights (Landlock). Descriptors that are open stay as good as they are, among them those on
// /proc/PID/mem and /proc/PID/pagemap. Everything else that takes ptrace(2) access to another process is gone with it:
// process_vm_readv(2), and opening its memory, its descriptors and what it has mapped.
func Files(rights ...Right) (missing error) {
	switch {
	case !haveLandlock():
		return errors.New("no Landlock: this kernel does not have it, or has it switched off")
	case withCgo && filtered.Load():
		return errors.New("no Landlock: this program was built with cgo (CGO_ENABLED=0 makes one that can)")
	}
	if err := landlock.V6.BestEffort().Restrict(rights...); err != nil {
		return fmt.Errorf("no Landlock: %w", err)
	}
	return nil
}

// filtered: Calls has been called. In a program with cgo all threads are reached by libpsx, with signals of its own, and under a filter
// it waits for ever.
var filtered atomic.Bool

// haveLandlock asks for the version of the kernel's Landlock.
func haveLandlock() bool {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	return e == 0 && v > 0
}

// NoNewPrivs has no program that is started from here on get more rights than this one (prctl(2), PR_SET_NO_NEW_PRIVS).
func NoNewPrivs() (missing error) {
	if err := ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no no_new_privs: %w", err)
	}
	return nil
}

// Group is some system calls, all of which or with certain arguments.
type Group = seccomp.SyscallGroup

// Calls gives up all system calls but those that are always left (allowed) and those of groups: they fail with EPERM. It implies
// NoNewPrivs.
func Calls(groups ...Group) (missing error) {
	if !seccomp.Supported() {
		return errors.Join(errors.New("no seccomp: this kernel does not have it"), NoNewPrivs())
	}
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy:     seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: append([]Group{allowed}, groups...)},
	})
	if err != nil {
		return errors.Join(fmt.Errorf("no seccomp: %w", err), NoNewPrivs())
	}
	filtered.Store(true)
	return nil
}

// OpenExisting is openat(2) of what exists already, without truncating it. A filter cannot look at paths.
var OpenExisting = With("openat", 2, seccomp.BitsNotSet, unix.O_CREAT|unix.O_TRUNC|unix.O_EXCL)

// With is a call whose argument, counted from 0, satisfies a condition. Several for one call are alternatives.
func With(name string, argument uint32, o seccomp.Operation, value uint64) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: name, Conditions: seccomp.ArgumentConditions{{Argument: argument, Operation: o, Value: value}}}
}

// allowed are the system calls that stay: what Go's runtime needs, I/O on descriptors, and memory. There is no call among
// them that takes a path, starts a program, or reaches another process.
var allowed = Group{
	Action: seccomp.ActionAllow,
	Names: []string{
		// Go's runtime: threads, memory, signals, time.
		"clone", "clone3", "exit", "exit_group", "futex", "futex_waitv", "gettid", "getpid", "getuid", "geteuid", "getgid", "getegid", "set_robust_list", "rseq",
		"sched_yield", "sched_getaffinity", "membarrier", "restart_syscall", "sigaltstack", "rt_sigaction", "rt_sigprocmask",
		"rt_sigreturn", "tgkill", "setitimer", "timer_create", "timer_settime", "timer_delete", "nanosleep", "clock_nanosleep",
		"clock_gettime", "clock_getres", "gettimeofday", "getrandom", "getrusage", "getrlimit", "uname", "arch_prctl",
		"mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "brk",
		// Waiting for descriptors.
		"epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "pipe2", "poll", "ppoll",
		// Sockets that are open already.
		"accept4", "accept", "recvmsg", "recvfrom", "sendmsg", "sendto", "shutdown", "getsockopt", "setsockopt",
		"getsockname", "getpeername",
		// Files that are open already. memfd_create makes one that has no name.
		"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "lseek", "close", "close_range",
		"dup", "fcntl", "flock", "fstat", "fstatfs", "statx", "newfstatat", "ftruncate", "fallocate", "fsync", "fdatasync",
		"cachestat", "fadvise64", "memfd_create", "kcmp", "landlock_create_ruleset",
	},
}
