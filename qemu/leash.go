// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A leash is a small process that ends a QEMU which was started and does not run yet, should this process be killed:
// nobody would let it run any more, or end it. prctl(PR_SET_PDEATHSIG) would do the same,
// but cannot be taken back from outside when the VM is to outlive us.
//
// It is put on before QEMU is started, so that there is no moment without. It ends QEMU by its process id or, in the moment in
// which nobody has told that yet, by the other end of its monitor.
//
// Like a guardian it is this program itself under another name.
type leash struct {
	cmd  *exec.Cmd
	hand *os.File // held open; closed without leave it is a command to end QEMU
}

const leashName = "ramjet-leash"

func init() {
	if os.Args[0] == leashName {
		os.Exit(holdLeash())
	}
}

// newLeash makes one for a QEMU whose monitor's other end is monitor.
func newLeash(monitor *os.File) (l *leash, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot watch over QEMU: %w", err)
		}
	}()
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	l = &leash{exec.Command("/proc/self/exe"), out}
	l.cmd.Args, l.cmd.Env = []string{leashName}, []string{"GOMAXPROCS=1"}
	l.cmd.Stdin, l.cmd.ExtraFiles = in, []*os.File{monitor}
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := l.cmd.Start(); err != nil {
		out.Close()
		return nil, err
	}
	return l, nil
}

// leashOn is newLeash for a connection.
func leashOn(monitor *net.UnixConn) (*leash, error) {
	raw, err := monitor.SyscallConn()
	if err != nil {
		return nil, err
	}
	var f *os.File
	err = raw.Control(func(fd uintptr) {
		// Not UnixConn.File: what that returns makes our own connection blocking when a child inherits it.
		if n, e := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); e == nil {
			f = os.NewFile(uintptr(n), "monitor")
		}
	})
	if err != nil || f == nil {
		return nil, fmt.Errorf("cannot watch over QEMU: no descriptor for its monitor: %w", err)
	}
	defer f.Close()
	return newLeash(f)
}

// hold says which process it is; of a wrapper that forks, first that and then QEMU.
func (l *leash) hold(pid int) { fmt.Fprintln(l.hand, pid) }

// slip lets QEMU go. It may be called more than once.
func (l *leash) slip() {
	if _, err := l.hand.WriteString(leave); errors.Is(err, os.ErrClosed) {
		return
	}
	l.hand.Close()
	go l.cmd.Wait()
}

const leave = "leave\n"

// heldProcess is a process that was alive when it was held, by a descriptor (pidfd_open(2)): should it end, its id may become
// another's before anybody looks.
type heldProcess struct{ pid, fd int }

func holdProcess(pid int) heldProcess {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		fd = -1 // it has ended
	}
	return heldProcess{pid, fd}
}

// kill ends the process and its descendants, if it has not ended. What it left behind then has other parents.
func (p heldProcess) kill() {
	if p.fd >= 0 && unix.PidfdSendSignal(p.fd, 0, nil, 0) == nil {
		killTree(p.pid)
	}
}

// holdLeash is the process's whole life.
func holdLeash() int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	var held []heldProcess
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		if words.Text()+"\n" == leave {
			return 0
		}
		if pid, err := strconv.Atoi(words.Text()); err == nil {
			held = append(held, holdProcess(pid))
		}
	}
	if words.Err() != nil {
		return 0
	}
	if len(held) > 0 {
		for _, p := range held {
			p.kill()
		}
		return 0
	}
	// There may be no QEMU yet, or it is starting: it finds this when it has started, and its end is the end of the connection.
	m := os.NewFile(3, "monitor")
	if _, err := m.WriteString("\xff{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n"); err == nil {
		_ = m.SetReadDeadline(time.Now().Add(time.Minute))
		_, _ = io.Copy(io.Discard, m)
	}
	return 0
}
