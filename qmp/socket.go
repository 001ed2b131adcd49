// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"unsafe"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"golang.org/x/sys/unix"
)

// clientConn is a client's connection, by the calls that its Dialer was given.
type clientConn struct {
	*net.UnixConn
	calls *sys.Calls
}

func (w clientConn) Read(p []byte) (int, error) { return w.calls.Receive(w.UnixConn, p) }

// send writes b, with fds on its first byte.
func (w clientConn) send(b []byte, fds []int) error {
	if len(fds) > 0 {
		n, err := w.calls.SendFDs(w.UnixConn, b, unix.UnixRights(fds...))
		if err != nil {
			return err
		}
		b = b[n:]
	}
	if len(b) == 0 {
		return nil
	}
	_, err := w.calls.Send(w.UnixConn, b)
	return err
}

// dupAll duplicates the descriptors of files, leaving the files' own modes alone
// (os.File.Fd could set one to blocking).
func dupAll(files []*os.File) (fds []int, err error) {
	if len(files) > MaxFiles {
		return nil, fmt.Errorf("%d are too many for one command, %d are allowed", len(files), MaxFiles)
	}
	defer func() {
		if err != nil {
			closeAll(fds)
			fds = nil
		}
	}()
	for _, f := range files {
		rc, err := f.SyscallConn()
		if err != nil {
			return fds, err
		}
		fd, err := dupRaw(rc)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

type controller interface {
	Control(func(fd uintptr)) error
}

func dupRaw(rc controller) (int, error) {
	var fd int
	var err error
	if cerr := rc.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
	}); cerr != nil {
		return -1, fmt.Errorf("%w (%v)", os.ErrClosed, cerr) // its only reason
	}
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return fd, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// PeerCred returns process, user and group of the other end (SO_PEERCRED): of
// the process that called listen(2) or socketpair(2), at that time. For a QEMU
// whose socket was made by a manager that passed it on (libvirt) that is the
// manager.
func PeerCred(conn *net.UnixConn) (*unix.Ucred, error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var serr error
	if err := rc.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, os.NewSyscallError("getsockopt", serr)
}

// PeerGroups returns the supplementary groups of the other end (SO_PEERGROUPS), at the time of PeerCred.
func PeerGroups(conn *net.UnixConn) (groups []uint32, err error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	const most = 65536 // NGROUPS_MAX
	groups = make([]uint32, most)
	size := uint32(4 * most)
	var e unix.Errno
	if err := rc.Control(func(fd uintptr) {
		_, _, e = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	}); err != nil {
		return nil, err
	}
	if e != 0 {
		return nil, os.NewSyscallError("getsockopt", e)
	}
	return groups[:size/4], nil
}

// PeerCred is the function PeerCred for the client's connection.
func (c *Client) PeerCred() (*unix.Ucred, error) { return PeerCred(c.conn.UnixConn) }

// PeerPID returns the process id of the monitor's process, with the reservation
// made at PeerCred.
func (c *Client) PeerPID() (int, error) {
	cred, err := c.PeerCred()
	if err != nil {
		return 0, err
	}
	if cred.Pid == 0 {
		return 0, errors.New("the monitor's process is in another pid namespace and cannot be seen from here")
	}
	return int(cred.Pid), nil
}

// File returns a duplicate of the connection's descriptor, for a process that
// is to inherit it. It is in non-blocking mode, as it shares the client's open
// file description, and must stay so: two that read from it take each other's
// replies, one that sets it to blocking stops the other's Close.
func (c *Client) File() (*os.File, error) {
	rc, err := c.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, err := dupRaw(rc)
	if err != nil {
		return nil, err
	}
	// os.NewFile sees O_NONBLOCK already set and so leaves the flag alone for
	// good, also in Fd (UnixConn.File and then Fd would clear it).
	return os.NewFile(uintptr(fd), "monitor"), nil
}
