// SPDX-License-Identifier: Apache-2.0

package uffd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// iocNew is USERFAULTFD_IOC_NEW, on a descriptor of /dev/userfaultfd (Linux 6.1).
const iocNew = 0xaa00

// injection is one userfaultfd that is being made in another process.
type injection struct {
	pid, tid int
	step     func(string) // tests kill this process at these points
}

// create has the main thread of process pid make a userfaultfd, from its own descriptor number device, which is of
// /dev/userfaultfd. What it returns is the only descriptor of it.
func (j injection) create(device int) (fd int, err error) {
	fd = -1
	if err := supported(j.pid); err != nil {
		return -1, err
	}
	g, err := findGadgets(j.pid)
	if err != nil {
		return -1, err
	}
	pidfd, err := unix.PidfdOpen(j.pid, 0)
	if err != nil {
		return -1, fmt.Errorf("there is no process %d: %w", j.pid, err)
	}
	defer unix.Close(pidfd)
	err = onOwnThread(func() error {
		t, err := seize(j.tid)
		if err != nil {
			return err
		}
		j.step("seized")
		fd, err = j.inject(t, g, pidfd, device)
		return errors.Join(err, t.detach())
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, err
	}
	j.step("detached")
	return fd, nil
}

// onOwnThread runs f on a thread of its own, which ends behind f. The kernel lets go of what a thread traces when that thread ends,
// so nothing stays traced, whatever f came to.
func onOwnThread(f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Go does not end the main thread. While this goroutine holds that, another one gets another.
			err = onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		err = f() // the goroutine ends while it is locked, and Go ends its thread
	}()
	<-done
	return err
}

// inject does it in a thread that is traced.
func (j injection) inject(t thread, g gadgets, pidfd, device int) (fd int, err error) {
	if err := t.stop(); err != nil {
		return -1, err
	}
	j.step("stopped")
	before, at, err := j.writeFrame(t, g)
	if err != nil {
		return -1, err
	}
	j.step("frame")
	const flags = unix.O_CLOEXEC | unix.O_NONBLOCK // without UFFD_USER_MODE_ONLY: the kernel's own writes must fault too
	its, err := j.call(t, before.call(g.syscallRet, at, unix.SYS_IOCTL, uint64(device), iocNew, flags))
	if err != nil {
		return -1, fmt.Errorf("cannot make a userfaultfd in process %d: %w", j.pid, err)
	}
	fd, err = unix.PidfdGetfd(pidfd, int(its), 0)
	j.step("taken")
	// The process's own is closed in any case: our death has to close the last one.
	_, closed := j.call(t, before.call(g.syscallRet, at, unix.SYS_CLOSE, its))
	j.step("closed")
	return fd, errors.Join(err, closed)
}

// writeFrame writes the signal frame that takes the thread back to where it is, and returns the thread's registers and the frame's address.
func (j injection) writeFrame(t thread, g gadgets) (r registers, at uint64, err error) {
	if r, err = t.registers(); err != nil {
		return r, 0, err
	}
	const code64 = 0x33 // the selector of 64-bit user code (__USER_CS)
	if r.CS != code64 {
		return r, 0, errors.New("the thread does not run 64-bit code")
	}
	vectors, err := t.vectors()
	if err != nil {
		return r, 0, err
	}
	mask, err := t.signalMask()
	if err != nil {
		return r, 0, err
	}
	at, b, err := frame(r.restarted(), mask, g.restoreRT, vectors)
	if err != nil {
		return r, 0, err
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMWritev(j.pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return r, at, wrap("write below the stack of thread", j.tid, err)
}

// call has the thread make the system call that r is set to, and returns its result.
func (j injection) call(t thread, r registers) (uint64, error) {
	if err := t.setRegisters(r); err != nil {
		return 0, err
	}
	j.step("registers")
	if err := t.toCallEnd(j.step); err != nil {
		return 0, err
	}
	r, err := t.registers()
	if err != nil {
		return 0, err
	}
	if errno := -int64(r.RAX); errno > 0 && errno < 4096 {
		return 0, unix.Errno(errno)
	}
	return r.RAX, nil
}

// supported refuses processes of which the way back is not known.
func supported(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		name, value, _ := strings.Cut(line, ":")
		switch {
		case name == "x86_Thread_features" && strings.Contains(value, "shstk"):
			return fmt.Errorf("process %d runs with shadow stacks, which a signal frame made from outside does not satisfy", pid)
		case name == "TracerPid" && strings.TrimSpace(value) != "0":
			return fmt.Errorf("process %d is traced by process %s", pid, strings.TrimSpace(value))
		}
	}
	return nil
}
