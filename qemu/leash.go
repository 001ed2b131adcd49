// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/attendant"
)

// A leash is an attendant that ends a QEMU which was started and does not run its guest yet, should this process be
// killed: nobody would let that guest run any more, or end it. prctl(PR_SET_PDEATHSIG) would do the same, but cannot be
// taken back from outside when the VM is to outlive this process.
//
// The leash starts before QEMU does, so that QEMU is never without it. It ends QEMU by its process id or, before that
// is known, by a command to its monitor.
type leash struct {
	*attendant.Process
}

// Leash is to be registered in main (attendant.Main).
var Leash = attendant.Kind{Name: "ramjet-leash", Run: holdLeash}

// newLeash starts a leash for a QEMU that will have the other end of this connection as its monitor.
func newLeash(monitor *net.UnixConn) (l leash, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot watch over QEMU: %w", err)
		}
	}()
	raw, err := monitor.SyscallConn()
	if err != nil {
		return l, err
	}
	var f *os.File
	err = raw.Control(func(fd uintptr) {
		// Not UnixConn.File: what that returns makes our own connection blocking when a child inherits it.
		if n, e := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); e == nil {
			f = os.NewFile(uintptr(n), "monitor")
		}
	})
	if err != nil || f == nil {
		return l, fmt.Errorf("no descriptor for its monitor: %w", err)
	}
	defer f.Close()
	l.Process, err = Leash.Start(nil, f)
	return l, err
}

// hold names a process that the leash is to end: QEMU, or a wrapper that may fork to run it.
func (l leash) hold(pid int) { _ = l.Order(pid) }

// release ends the leash, and leaves QEMU alone. It may be called more than once.
func (l leash) release() { _ = l.Leave() }

// heldProcess is a process and a descriptor of it (pidfd_open(2)): after the process's end the kernel may give its id
// to another one.
type heldProcess struct{ pid, fd int }

func holdProcess(pid int) heldProcess {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		fd = -1 // it has ended
	}
	return heldProcess{pid, fd}
}

// kill ends the process and its descendants, unless it has ended already. Its children have other parents by then.
func (p heldProcess) kill() {
	if p.fd >= 0 && unix.PidfdSendSignal(p.fd, 0, nil, 0) == nil {
		killTree(p.pid)
	}
}

// holdLeash is what a leash does.
func holdLeash(in *attendant.Orders) int {
	var held []heldProcess
	for {
		order, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0
		}
		var pid int
		if order.Decode(&pid) == nil {
			held = append(held, holdProcess(pid))
		}
	}
	for _, p := range held {
		p.kill()
	}
	if len(held) > 0 {
		return 0
	}
	// QEMU may not have been started, or may still be starting: it finds this command when it has started, and closes
	// the connection at its end.
	m := os.NewFile(attendant.FirstFile, "monitor")
	if _, err := m.WriteString("\xff{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n"); err == nil {
		_ = m.SetReadDeadline(time.Now().Add(time.Minute))
		_, _ = io.Copy(io.Discard, m)
	}
	return 0
}
