// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
)

// checkPeer refuses a monitor of another process than vm.PID. The monitor's QEMU is the process that has the other end
// of the connection, and not the one that SO_PEERCRED names, which made the listening socket.
func checkPeer(monitor *qmp.Client, socket string, pid int) error {
	inode, err := peerInode(monitor)
	if err != nil {
		return checkListener(monitor, socket, pid)
	}
	other := func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFSOCK && st.Ino == inode }
	if holds(pid, other, false) {
		return nil
	}
	if p, found := holding(other, false); found {
		return fmt.Errorf("the monitor at %s is that of %s, not of process %d: give --qmp and --pid of one VM", socket, p, pid)
	}
	return nil // it cannot be seen: process of another user, or another pid namespace
}

// checkListener is checkPeer for kernels that do not say who has the other end of a connection. It refuses a listening
// socket of another QEMU.
func checkListener(monitor *qmp.Client, socket string, pid int) error {
	listener, err := monitor.PeerPID()
	if err != nil || listener == pid {
		return nil
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", listener))
	if err == nil && strings.HasPrefix(filepath.Base(program), "qemu-") {
		return fmt.Errorf("the monitor at %s is that of %s, not of process %d: give --qmp and --pid of one VM", socket, named(listener), pid)
	}
	return nil
}

// peerInode is the inode of the socket at the other end of a monitor's connection: netlink's answer to a question about
// our own (sock_diag(7), UNIX_DIAG_PEER).
func peerInode(monitor *qmp.Client) (uint64, error) {
	f, err := monitor.File()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, unixDiagRequest(uint32(st.Ino)), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, err
	}
	return unixDiagPeer(answer[:n])
}

var order = binary.NativeEndian

const (
	sockDiagByFamily = 20
	showPeer         = 4 // UDIAG_SHOW_PEER
	attributePeer    = 2 // UNIX_DIAG_PEER
	netlinkHeader    = 16
)

// unixDiagRequest asks for one socket:
//
//	struct nlmsghdr       length u32, type u16, flags u16, sequence u32, port u32
//	struct unix_diag_req  family u8, protocol u8, pad u16, states u32, inode u32, show u32, cookie 2 x u32
func unixDiagRequest(inode uint32) []byte {
	b := order.AppendUint32(nil, netlinkHeader+24)
	b = order.AppendUint16(b, sockDiagByFamily)
	b = order.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...)
	b = append(b, unix.AF_UNIX, 0, 0, 0)
	b = order.AppendUint32(b, ^uint32(0))
	b = order.AppendUint32(b, inode)
	b = order.AppendUint32(b, showPeer)
	return order.AppendUint64(b, ^uint64(0))
}

// unixDiagPeer takes the answer: nlmsghdr, struct unix_diag_msg of 16 bytes, then attributes of length u16 and type
// u16.
func unixDiagPeer(b []byte) (uint64, error) {
	if len(b) < netlinkHeader+16 || order.Uint16(b[4:]) != sockDiagByFamily {
		return 0, errors.New("the kernel does not tell the other end of a socket")
	}
	for a := b[netlinkHeader+16:]; len(a) >= 8; {
		length := int(order.Uint16(a))
		if length < 4 || length > len(a) {
			break
		}
		if order.Uint16(a[2:]) == attributePeer {
			return uint64(order.Uint32(a[4:])), nil
		}
		a = a[min((length+3)&^3, len(a)):]
	}
	return 0, errors.New("the other end of the monitor's socket is not told")
}

// socketOf is the path by which this process finds a socket that process pid names: it may see other files, in a mount
// namespace or below a root directory of its own.
func socketOf(pid int, path string) string {
	proc := fmt.Sprintf("/proc/%d", pid)
	theirs, err := os.Readlink(proc + "/ns/mnt")
	ours, err2 := os.Readlink("/proc/self/ns/mnt")
	if err != nil || err2 != nil || theirs == ours {
		return path
	}
	if st, err := os.Stat(proc + "/root" + path); err == nil && st.Mode()&os.ModeSocket != 0 {
		return proc + "/root" + path
	}
	return path
}

// explainBusy finds out why a monitor does not answer on a new connection. One reason is a QEMU at its limit of
// descriptors: the kernel has made the connection, and QEMU cannot accept it.
func explainBusy(err error) error {
	var busy *qmp.BusyError
	if !errors.As(err, &busy) || busy.PID == 0 {
		return err
	}
	if full := descriptorLimit(busy.PID, 0); full != nil {
		return full
	}
	return err
}

// explainLimit adds to an error of QEMU's that QEMU has reached its limit of descriptors, which QEMU's own text does
// not say.
func (vm *VM) explainLimit(err error) error {
	if full := descriptorLimit(vm.PID, 0); full != nil {
		return fmt.Errorf("%w: %w", err, full)
	}
	return err
}

// neededDescriptors is how many descriptors QEMU needs at a time for a save: connections to its monitor, those that are
// passed to it, and its copies of those.
const neededDescriptors = 4

// descriptorLimit returns an error if a process can open no more than spare further descriptors (RLIMIT_NOFILE).
func descriptorLimit(pid int, spare uint64) error {
	var limit unix.Rlimit
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit) != nil {
		return nil
	}
	below := uint64(0) // those that count: a new one gets the lowest free number
	for _, e := range open {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && n < limit.Cur {
			below++
		}
	}
	if below+spare < limit.Cur {
		return nil
	}
	return fmt.Errorf("%s has %d descriptors open and may have %d, which leaves too few: allow it more (prlimit --pid %d --nofile=%d)", named(pid), below, limit.Cur, pid, limit.Cur*2)
}
