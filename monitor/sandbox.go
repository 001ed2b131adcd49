// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/sandbox"
)

// Sandbox gives up, permanently and for all threads, what a monitor does not need once it listens: the file system
// (Landlock with no rights at all, if the kernel has it) and all system calls except those on memory and on descriptors
// that the process has or is passed (seccomp; others fail with EPERM).
//
// The error says which of these the kernel does not have.
func Sandbox() (missing error) {
	return errors.Join(sandbox.Files(), sandbox.Calls(sandbox.Group{
		Action:             seccomp.ActionAllow,
		NamesWithCondtions: []seccomp.NameWithConditions{sandbox.With("ioctl", 1, seccomp.Equal, unix.BLKGETSIZE64)}, // directio.Size
	}))
}

// SandboxBeside is Sandbox for a monitor in front of the QEMU that is process pid. Such a monitor reads that process's
// memory.
//
// It does not use Landlock: a process under Landlock may not access one that is not (ptrace(2) access, Landlock's rule
// for domains). The filter allows more calls, for /proc/PID of the QEMU and for this process's descriptors: opening
// existing files without truncating them; process_vm_readv, process_vm_writev and pidfd_open of the QEMU; and
// pidfd_getfd. A filter cannot check paths: this program itself opens no others.
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
