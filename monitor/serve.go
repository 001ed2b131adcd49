// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
)

// Greeting is the server's greeting: the version of the QEMU whose commands and texts these are.
func Greeting(ramjetVersion string) qmp.Greeting {
	return qmp.Greeting{Major: 10, Package: "ramjet " + ramjetVersion}
}

// QueryVersion is the command query-version of a monitor with this greeting.
func QueryVersion(g qmp.Greeting) qmp.Command {
	return qmp.Command{Run: func(_ context.Context, r *qmp.Request) (any, error) { return g.Version(), r.Args(nil) }}
}

// Listen makes the socket at path, for this user only (mode 0600), or for the members of a group too (0660); group -1
// is none. A socket that no server listens at any more is replaced, as QEMU does.
func Listen(path string, group int) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is not a socket: choose another path", path)
		}
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("somebody listens at %s already: choose another path, or end that one", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the directory %s does not exist: make it, or listen elsewhere", filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if group >= 0 {
		if err = os.Chown(path, -1, group); err == nil {
			err = os.Chmod(path, 0o660)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot give the socket to group %d: %w", group, err), l.Close())
		}
	}
	return l, nil
}

// Inherited returns the socket that the process was started with as descriptor fd: a listener or a connection, the
// other one nil.
func Inherited(fd int) (*net.UnixListener, *net.UnixConn, error) {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, nil, fmt.Errorf("descriptor %d is no socket that this process was started with: %w", fd, err)
	}
	f := os.NewFile(uintptr(fd), "monitor socket")
	defer f.Close()
	if listening == 0 {
		c, err := net.FileConn(f)
		if err != nil {
			return nil, nil, fmt.Errorf("descriptor %d: %w", fd, err)
		}
		if u, ok := c.(*net.UnixConn); ok {
			return nil, u, nil
		}
		c.Close()
		return nil, nil, fmt.Errorf("descriptor %d is not a Unix socket", fd)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		return u, nil, nil
	}
	l.Close()
	return nil, nil, fmt.Errorf("descriptor %d is not a Unix socket", fd)
}

// Admit decides who may be a client: root, the process's own user, and the members of a group.
type Admit struct {
	Group int // -1: none
}

// Check returns an error if the process at the other end of conn may not be a client.
func (a Admit) Check(conn *net.UnixConn) error {
	peer, err := qmp.PeerCred(conn)
	if err != nil {
		return err
	}
	if peer.Uid == 0 || int(peer.Uid) == os.Geteuid() || a.Group >= 0 && int(peer.Gid) == a.Group {
		return nil
	}
	if a.Group < 0 {
		return fmt.Errorf("user %d may not use this monitor: user %d and root may, and a group that ramjet serve --group names", peer.Uid, os.Geteuid())
	}
	groups, err := qmp.PeerGroups(conn)
	if err != nil {
		return err
	}
	if !slices.Contains(groups, uint32(a.Group)) {
		return fmt.Errorf("user %d may not use this monitor: user %d, root and the members of group %d may", peer.Uid, os.Geteuid(), a.Group)
	}
	return nil
}

// Serve serves the clients of l, or the one client of c if that is not nil, until ctx ends or that client leaves.
func (a Admit) Serve(ctx context.Context, s *qmp.Server, l *net.UnixListener, c *net.UnixConn) error {
	if c != nil {
		if err := a.Check(c); err != nil {
			qmp.Refuse(c, err)
			return err
		}
		return s.ServeConn(ctx, c)
	}
	s.Allow = a.Check
	l.SetUnlinkOnClose(false)
	err := s.Serve(ctx, l)
	if errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
