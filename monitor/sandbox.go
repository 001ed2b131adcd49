// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/sandbox"
)

// Sandbox gives up, for good and for all threads, what a monitor does not need once it listens: the file system
// (Landlock, no rights at all, where the kernel has it) and all system calls but those on descriptors and memory that it
// already has or is passed (seccomp; others fail with EPERM).
//
// It reports what could not be had.
func Sandbox() (missing error) {
	return errors.Join(sandbox.Files(), sandbox.Calls(sandbox.Group{
		Action:             seccomp.ActionAllow,
		NamesWithCondtions: []seccomp.NameWithConditions{sandbox.With("ioctl", 1, seccomp.Equal, unix.BLKGETSIZE64)}, // directio.Size
	}))
}

// SandboxBeside is Sandbox for a monitor in front of a QEMU, which has to look at that process's memory all the time.
//
// There is no Landlock: a process that is under it may not look at one that is not (ptrace(2) access, Landlock's rule for
// domains). And there are exceptions from the filter, for /proc/PID of the QEMU and for descriptors of this process: opening
// what exists already, without truncating it, and process_vm_readv, process_vm_writev and pidfd_open of the QEMU, which is
// process pid, and pidfd_getfd. A filter cannot look at paths; that no other is opened is up to this program.
func SandboxBeside(pid int) (missing error) {
	return sandbox.Calls(sandbox.Group{
		Action: seccomp.ActionAllow,
		Names: []string{"pidfd_getfd", "getdents64", "readlinkat", "ioctl",
			"waitid", "wait4"}, // the end of the guardian, which was started before
		NamesWithCondtions: []seccomp.NameWithConditions{
			sandbox.OpenExisting,
			sandbox.With("process_vm_readv", 0, seccomp.Equal, uint64(pid)),
			sandbox.With("process_vm_writev", 0, seccomp.Equal, uint64(pid)),
			sandbox.With("pidfd_open", 0, seccomp.Equal, uint64(pid)),
		},
	})
}
