// SPDX-License-Identifier: Apache-2.0

package uffd

import (
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ptrace(2) requests and values that golang.org/x/sys/unix does not have for this architecture.
const (
	ptraceGetSigmask = 0x420a
	ntX86XState      = 0x202
)

// maxXSave bounds the vector registers of a thread, in bytes: AMX, the largest so far, takes 11 KiB.
const maxXSave = 64 << 10

// stopTimeout is how long a thread is waited for. A thread that sleeps in the kernel without letting itself be interrupted does not stop.
const stopTimeout = 2 * time.Second

// thread is a thread of another process that this one traces. All methods have to be called by the goroutine that seized it, which
// must be locked to its own thread: the kernel knows a tracer by its thread.
type thread struct{ id int }

// seize begins to trace. When this process dies, the thread goes on (there is no PTRACE_O_EXITKILL).
func seize(tid int) (thread, error) {
	err := ptrace(unix.PTRACE_SEIZE, tid, 0, unix.PTRACE_O_TRACESYSGOOD)
	if errors.Is(err, unix.EPERM) {
		return thread{}, fmt.Errorf("thread %d may not be traced: another program (a debugger, strace) traces it, or this user has no right to: %w", tid, err)
	}
	return thread{tid}, wrap("trace thread", tid, err)
}

// stop has the thread stop where it is, and waits for that.
func (t thread) stop() error {
	if err := ptrace(unix.PTRACE_INTERRUPT, t.id, 0, 0); err != nil {
		return wrap("interrupt thread", t.id, err)
	}
	signal, err := t.stopped(unix.PTRACE_CONT)
	if err != nil {
		return err
	}
	if signal != unix.SIGTRAP {
		return fmt.Errorf("the process is stopped (%v)", signal)
	}
	return nil
}

// toCallEnd lets a thread, whose registers were set to a system call, run to that call's end. It stops twice: at the entry and at the exit.
func (t thread) toCallEnd(between func(step string)) error {
	for _, step := range []string{"entry", "exit"} {
		if err := ptrace(unix.PTRACE_SYSCALL, t.id, 0, 0); err != nil {
			return wrap("go on with thread", t.id, err)
		}
		between("towards " + step)
		if _, err := t.stopped(unix.PTRACE_SYSCALL); err != nil {
			return err
		}
		between(step)
	}
	return nil
}

// stopped waits for the next stop that is ours, and returns its signal. A signal that was on its way to the thread is delivered, and the thread
// resumed by the request resume.
func (t thread) stopped(resume int) (unix.Signal, error) {
	for end := time.Now().Add(stopTimeout); ; {
		var status unix.WaitStatus
		n, err := unix.Wait4(t.id, &status, unix.WALL|unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, wrap("wait for thread", t.id, err)
		case n == 0 && time.Now().After(end):
			return 0, fmt.Errorf("thread %d does not stop within %v", t.id, stopTimeout)
		case n == 0:
			time.Sleep(20 * time.Microsecond)
		case !status.Stopped():
			return 0, fmt.Errorf("thread %d has ended", t.id)
		default:
			signal, event := status.StopSignal(), int(status)>>16
			if event == unix.PTRACE_EVENT_STOP || signal == unix.SIGTRAP|0x80 {
				return signal, nil
			}
			if event != 0 {
				return 0, fmt.Errorf("thread %d stopped in an unexpected way (%#x)", t.id, int(status))
			}
			if err := ptrace(resume, t.id, 0, uintptr(signal)); err != nil {
				return 0, wrap("pass a signal on to thread", t.id, err)
			}
		}
	}
}

// detach ends tracing; the thread goes on.
func (t thread) detach() error {
	return wrap("let go of thread", t.id, ptrace(unix.PTRACE_DETACH, t.id, 0, 0))
}

func (t thread) registers() (r registers, err error) {
	err = regset(unix.PTRACE_GETREGSET, t.id, unix.NT_PRSTATUS, unsafe.Pointer(&r), unsafe.Sizeof(r), nil)
	return r, err
}

// setRegisters replaces all registers in one step.
func (t thread) setRegisters(r registers) error {
	return regset(unix.PTRACE_SETREGSET, t.id, unix.NT_PRSTATUS, unsafe.Pointer(&r), unsafe.Sizeof(r), nil)
}

// vectors returns floating point and vector registers as XSAVE lays them out.
func (t thread) vectors() ([]byte, error) {
	b := make([]byte, maxXSave)
	var n uint64
	err := regset(unix.PTRACE_GETREGSET, t.id, ntX86XState, unsafe.Pointer(&b[0]), maxXSave, &n)
	return b[:n], err
}

// signalMask returns the signals that the thread blocks, or will block again when it leaves ppoll(2) and the like.
func (t thread) signalMask() (mask uint64, err error) {
	err = ptrace(ptraceGetSigmask, t.id, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	return mask, wrap("read the signal mask of thread", t.id, err)
}

func regset(request, tid, which int, p unsafe.Pointer, n uintptr, got *uint64) error {
	v := unix.Iovec{Base: (*byte)(p)}
	v.SetLen(int(n))
	err := ptrace(request, tid, uintptr(which), uintptr(unsafe.Pointer(&v)))
	runtime.KeepAlive(p)
	if got != nil {
		*got = v.Len
	}
	return wrap("reach the registers of thread", tid, err)
}

func ptrace(request, tid int, addr, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func wrap(what string, tid int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot %s %d: %w", what, tid, err)
}
