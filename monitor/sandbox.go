// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"fmt"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Sandbox gives up, for good and for all threads, what a monitor does not need once it listens: the file system
// (Landlock, no rights at all, where the kernel has it) and all system calls but those on descriptors and memory that it
// already has or is passed (seccomp; others fail with EPERM).
//
// It reports what could not be had.
func Sandbox() (missing error) {
	if err := landlock.V6.BestEffort().Restrict(); err != nil {
		missing = fmt.Errorf("no Landlock: %w", err)
	} else if !haveLandlock() {
		missing = errors.New("no Landlock: this kernel does not have it, or has it switched off")
	}
	return errors.Join(missing, filter(allowed))
}

// SandboxBeside is Sandbox for a monitor in front of a QEMU, which has to look at that process's memory all the time.
//
// There is no Landlock: a process that is under it may not look at one that is not (ptrace(2) access, Landlock's rule for
// domains). And there are exceptions from the filter, for /proc/PID of the QEMU and for descriptors of this process: opening
// what exists already, without truncating it, and process_vm_readv, process_vm_writev, pidfd_open and pidfd_getfd. A filter
// cannot look at paths; that no other is opened is up to this program.
func SandboxBeside() (missing error) {
	return filter(append(allowed[:1:1], seccomp.SyscallGroup{
		Action: seccomp.ActionAllow,
		Names: []string{"process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd", "getdents64", "readlinkat", "ioctl",
			"waitid", "wait4"}, // the end of the guardian, which was started before
		NamesWithCondtions: []seccomp.NameWithConditions{{
			Name:       "openat",
			Conditions: seccomp.ArgumentConditions{{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.O_CREAT | unix.O_TRUNC | unix.O_EXCL}},
		}},
	}))
}

// haveLandlock asks for the version of the kernel's Landlock.
func haveLandlock() bool {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	return e == 0 && v > 0
}

// allowed are the system calls that stay: what Go's runtime needs, I/O on descriptors, and memory. There is no call among
// them that takes a path, starts a program, or reaches another process.
var allowed = []seccomp.SyscallGroup{{
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
		// The monitor's clients.
		"accept4", "accept", "recvmsg", "recvfrom", "sendmsg", "sendto", "shutdown", "getsockopt", "setsockopt",
		"getsockname", "getpeername",
		// Files that are open already. memfd_create makes one that has no name.
		"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "lseek", "close", "close_range",
		"dup", "fcntl", "flock", "fstat", "fstatfs", "statx", "newfstatat", "ftruncate", "fallocate", "fsync", "fdatasync",
		"memfd_create", "kcmp", "landlock_create_ruleset",
	},
}}

func filter(groups []seccomp.SyscallGroup) error {
	if !seccomp.Supported() {
		return errors.New("no seccomp: this kernel does not have it")
	}
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy:     seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: groups},
	})
	if err != nil {
		return fmt.Errorf("no seccomp: %w", err)
	}
	return nil
}
