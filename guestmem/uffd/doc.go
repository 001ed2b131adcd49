// SPDX-License-Identifier: Apache-2.0

// Package uffd write-protects the memory of another process, of any stock QEMU, from outside: pages keep their content until this
// process has copied them, although the guest runs.
//
// The kernel's tool for that is a userfaultfd (userfaultfd(2)), which only its own process can make. So one thread of that process is
// made to call ioctl(dev, USERFAULTFD_IOC_NEW) on a descriptor of /dev/userfaultfd that was passed to it, and then to close what it got, after
// this process has taken a duplicate (pidfd_getfd(2)). From then on only this process holds the userfaultfd. When this process ends, in
// whatever way, the kernel closes it, takes every protection away and lets every thread that waits go on.
//
// # Why the thread is right whenever the tracer dies
//
// A thread whose tracer dies goes on with the registers that it has. Registers that someone has to put back are therefore no way: they
// must lead back by themselves. Before anything is changed a signal frame is written below the thread's stack pointer, as the kernel would write
// it for a signal handler (setup_rt_frame, struct rt_sigframe); its registers are those that the thread is to have in the end:
//
//	rsp                 the thread's stack pointer; 128 bytes below it are its red zone
//	fp    = F+...       floating point and vector registers as XSAVE lays them out, 64-aligned; behind them the kernel's second magic
//	F+304               signal mask
//	F+48                struct sigcontext: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags; cs, ss; at +184 the address fp
//	F+24                the alternate stack, with flags that are invalid, so that the kernel leaves the thread's own as it is
//	F+8                 uc_flags
//	F                   the address of __restore_rt in libc: mov $15, %rax; syscall
//
// Nobody has looked at that memory yet, and nobody but signal handlers uses memory below the red zone, so writing it changes nothing.
// Then one call of PTRACE_SETREGSET, which is one step for the kernel, sets rip to the instructions "syscall; ret", rsp to F, and the registers to the
// arguments of the ioctl. What follows is decided: the ioctl runs, ret takes the thread to __restore_rt, and rt_sigreturn(2) loads all
// registers and the signal mask from the frame. Each step below can be the tracer's last:
//
//	seized, interrupted      the kernel detaches a dead tracer's tracee and lets it run on
//	frame written            the memory is nobody's
//	registers set            the ioctl runs, the thread returns by itself; one idle userfaultfd stays open in its process
//	at the call's entry,     as before. The option PTRACE_O_TRACESYSGOOD is needed for this: without it the kernel sends SIGTRAP to a
//	at its exit              thread that is in such a stop when its tracer dies (ptrace_report_syscall)
//	registers set anew       close runs in place of the ioctl, at the same stack pointer, and the thread returns in the same way
//
// A userfaultfd that stays open is harmless: nothing is registered with it, and without UFFDIO_API it does nothing.
//
// orig_rax is -1 in all registers that are set, so that the kernel does not take the thread for one inside a system call that a
// signal interrupted. Where the thread was in one (rax is one of the kernel's ERESTART codes), the frame's registers repeat it, as the
// kernel itself would have done.
//
// Only x86-64 is supported. Programs with shadow stacks, 32-bit code, or another tracer are refused.
package uffd
