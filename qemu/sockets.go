// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// listeningAt finds who listens at the path of a Unix socket. The kernel's list is looked at first, since a connection
// is something that the server notices; but it has only the sockets of this network namespace, by the names that their
// makers used.
func listeningAt(path string) (process, bool) {
	if inode := listedListener(path); inode != 0 {
		p, _ := holdingSocket(inode)
		return p, true
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case err == nil:
		defer c.Close()
		cred, err := qmp.PeerCred(c)
		if err != nil {
			return process{}, true
		}
		return named(int(cred.Pid)), true
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EPROTOTYPE): // others wait to be served; it is of another type
		return process{}, true
	}
	return process{}, false
}

// listedListener is the inode of the socket that listens at path, or 0 (proc_net(5), unix).
func listedListener(path string) uint64 {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return 0
	}
	defer f.Close()
	const acceptsConnections = "00010000" // __SO_ACCEPTCON
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path
		w := strings.Fields(lines.Text())
		if len(w) < 8 || w[3] != acceptsConnections || strings.Join(w[7:], " ") != path {
			continue
		}
		// A socket whose path was taken by another listens on, unreachable.
		if inode, err := strconv.ParseUint(w[6], 10, 64); err == nil && answers(path) {
			return inode
		}
	}
	return 0
}

// answers reports whether the path is still that of a socket.
func answers(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode()&os.ModeSocket != 0
}

// portTaken reports whether an address cannot be listened on because somebody does, and who. A name of a host that is
// no address is left to QEMU.
func portTaken(kind cmdline.Kind, address string) (process, bool) {
	host, port, err := net.SplitHostPort(address)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil {
		return process{}, false
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if ip == nil && host != "" {
		return process{}, false
	}
	if !errors.Is(tryBind(kind, ip, int(n)), unix.EADDRINUSE) {
		return process{}, false
	}
	for _, inode := range boundTo(kind, uint16(n)) {
		if p, ok := holdingSocket(inode); ok {
			return p, true
		}
	}
	return process{}, true
}

// tryBind binds a socket as QEMU would, and closes it. It does not listen, so nobody can connect to it.
func tryBind(kind cmdline.Kind, ip net.IP, port int) error {
	kindOf := unix.SOCK_STREAM
	if kind == cmdline.UDPKind {
		kindOf = unix.SOCK_DGRAM
	}
	family, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port})
	if v4 := ip.To4(); v4 != nil {
		address = &unix.SockaddrInet4{Port: port, Addr: [4]byte(v4)}
	} else if ip != nil {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: [16]byte(ip)}
	}
	fd, err := unix.Socket(family, kindOf|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == cmdline.TCPKind { // of UDP it would let two have the same port
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, address)
}

// boundTo are the inodes of the sockets that listen on a port, or are bound to it (proc_net(5), tcp and udp).
func boundTo(kind cmdline.Kind, port uint16) (inodes []uint64) {
	files, state := []string{"/proc/net/tcp", "/proc/net/tcp6"}, "0A"
	if kind == cmdline.UDPKind {
		files, state = []string{"/proc/net/udp", "/proc/net/udp6"}, "07"
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			w := strings.Fields(line)
			if len(w) < 10 || w[3] != state {
				continue
			}
			_, hex, _ := strings.Cut(w[1], ":")
			if n, err := strconv.ParseUint(hex, 16, 16); err != nil || uint16(n) != port {
				continue
			}
			if inode, err := strconv.ParseUint(w[9], 10, 64); err == nil {
				inodes = append(inodes, inode)
			}
		}
	}
	return inodes
}

// socketPair makes a connection: one end for us, the other for QEMU.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a connection for QEMU's monitor: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "monitor")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return conn.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "monitor"), nil
}
