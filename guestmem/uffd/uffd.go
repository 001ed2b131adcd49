// SPDX-License-Identifier: Apache-2.0

package uffd

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Device is what userfaultfds are made from: open it for reading and writing, and pass it to the process.
const Device = "/dev/userfaultfd"

// FD is a userfaultfd of another process, of which this process has the only descriptor. Protect, Unprotect and Next may be called by several
// goroutines at a time; Register and Close when nothing else is under way.
type FD struct {
	fd   int
	wake int // an eventfd that ends Next
}

// Options choose what an FD can do.
type Options struct {
	// Unpopulated has Protect cover pages that do not exist yet too (UFFD_FEATURE_WP_UNPOPULATED, Linux 6.4). The marks that the kernel
	// leaves for them keep huge pages out, so it is for memory of 4 KiB pages.
	Unpopulated bool
}

// Create makes a userfaultfd in process pid, whose descriptor number device is of Device. The process's main thread stands still for less than a
// millisecond. Neither this process's death nor an error, at any moment, changes what that thread does.
//
// It needs the right to trace the process (ptrace(2)).
func Create(pid, device int, o Options) (*FD, error) {
	return create(injection{pid: pid, tid: pid, step: func(string) {}}, device, o)
}

func create(j injection, device int, o Options) (*FD, error) {
	fd, err := j.create(device)
	if err != nil {
		return nil, err
	}
	u := &FD{fd: fd}
	u.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = u.enable(o)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return u, nil
}

// ioctl(2) requests and features of userfaultfds (include/uapi/linux/userfaultfd.h).
const (
	ioctlAPI          = 0xc018aa3f
	ioctlRegister     = 0xc020aa00
	ioctlWriteProtect = 0xc018aa06

	apiVersion         = 0xaa
	featureFaultWP     = 1 << 0
	featureRemove      = 1 << 3
	featureUnmap       = 1 << 6
	featureThreadID    = 1 << 8
	featureWPShared    = 1 << 12
	featureUnpopulated = 1 << 13

	modeWP = 2
)

func (u *FD) enable(o Options) error {
	arg := [3]uint64{apiVersion, featureFaultWP | featureRemove | featureUnmap | featureThreadID | featureWPShared, 0}
	if o.Unpopulated {
		arg[1] |= featureUnpopulated
	}
	if err := ioctl(u.fd, ioctlAPI, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("this kernel cannot write-protect all kinds of memory (userfaultfd, Linux 5.19): %w", err)
	}
	return nil
}

// ErrMemory: the kernel cannot write-protect this kind of memory, a mapped file for example.
var ErrMemory = errors.New("this memory cannot be write-protected from outside: it is mapped from a file")

// Register makes n bytes at addr of the process, whole pages, ready to be protected. Nothing changes for the process yet.
func (u *FD) Register(addr, n uint64) error {
	arg := [4]uint64{addr, n, modeWP, 0}
	switch err := ioctl(u.fd, ioctlRegister, unsafe.Pointer(&arg)); {
	case errors.Is(err, unix.EINVAL):
		return ErrMemory
	case err != nil:
		return fmt.Errorf("cannot register memory at %#x: %w", addr, err)
	}
	return nil
}

// ErrBusy: the process is changing what it has mapped, and an event of that waits to be read: read it (Next), then try again.
var ErrBusy = errors.New("an event of the userfaultfd waits to be read")

// Protect has every write to the n bytes at addr wait, until Unprotect, for whoever reads the fault from Next. Pages that do not exist are left
// out, unless Options.Unpopulated is set.
func (u *FD) Protect(addr, n uint64) error { return u.protect(addr, n, 1) }

// Unprotect takes the protection away, and lets those go on who wait for it. It may be called for memory that is not protected.
func (u *FD) Unprotect(addr, n uint64) error { return u.protect(addr, n, 0) }

func (u *FD) protect(addr, n, mode uint64) error {
	arg := [3]uint64{addr, n, mode}
	switch err := ioctl(u.fd, ioctlWriteProtect, unsafe.Pointer(&arg)); {
	case errors.Is(err, unix.EAGAIN):
		return ErrBusy
	case err != nil:
		return fmt.Errorf("cannot change the protection of %d bytes at %#x: %w", n, addr, err)
	}
	return nil
}

// Kind says what an Event is.
type Kind uint8

// A Fault is a thread that waits to write. Removed and Unmapped are memory whose content is gone, or about to be: discarded by a balloon,
// for example (madvise(2), MADV_DONTNEED, MADV_REMOVE; munmap(2)).
const (
	Fault    Kind = 0x12
	Removed  Kind = 0x15
	Unmapped Kind = 0x16
)

// Event is something that happened to registered memory.
type Event struct {
	Kind   Kind
	Addr   uint64 // of a fault: within the page; else the first byte
	End    uint64 // behind the last byte; of a fault 0
	Thread int    // of a fault: the thread that waits
}

// message is struct uffd_msg.
type message struct {
	event   uint8
	_       [7]byte
	a, b, c uint64
}

const messageSize = int(unsafe.Sizeof(message{}))

// maxEvents is how many events Next returns at most.
const maxEvents = 64

// ErrClosed: Stop was called.
var ErrClosed = errors.New("the userfaultfd is not read any more")

// Next waits for events and returns some. An event is given to one caller only. It returns ErrClosed after Stop.
func (u *FD) Next() ([]Event, error) {
	for {
		if err := u.wait(-1); err != nil {
			return nil, err
		}
		var buf [maxEvents]message
		b := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), maxEvents*messageSize)
		n, err := sys.RetryValue(func() (int, error) { return unix.Read(u.fd, b) })
		switch {
		case errors.Is(err, unix.EAGAIN): // somebody else has read it
			continue
		case err != nil:
			return nil, os.NewSyscallError("read from the userfaultfd", err)
		case n == 0:
			return nil, ErrClosed
		}
		return events(buf[:n/messageSize]), nil
	}
}

func events(messages []message) (all []Event) {
	for _, m := range messages {
		e := Event{Kind: Kind(m.event), Addr: m.a, End: m.b}
		if e.Kind == Fault {
			e.Addr, e.End, e.Thread = m.b, 0, int(uint32(m.c)) // flags, address, thread
		}
		all = append(all, e)
	}
	return all
}

// wait returns when there is something to read.
func (u *FD) wait(timeout time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLIN}, {Fd: int32(u.wake), Events: unix.POLLIN}}
	if err := sys.Retry(func() error { _, err := unix.Poll(fds, int(timeout.Milliseconds())); return err }); err != nil {
		return os.NewSyscallError("poll", err)
	}
	switch {
	case fds[1].Revents != 0:
		return ErrClosed
	case fds[0].Revents&^unix.POLLIN != 0:
		return errors.New("the process of the userfaultfd has ended")
	}
	return nil
}

// Stop ends all calls of Next, those to come too.
func (u *FD) Stop() error {
	_, err := unix.Write(u.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// Close gives the userfaultfd up: all protection is gone, and whoever waits goes on.
func (u *FD) Close() error { return errors.Join(unix.Close(u.fd), unix.Close(u.wake)) }

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	return sys.Retry(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}
