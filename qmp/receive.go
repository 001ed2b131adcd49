// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiver reads a stream and learns at which byte of it descriptors came.
//
// The kernel ties descriptors to the first byte of the sendmsg that carried
// them, and returns them with the read that takes this byte, together with bytes
// of earlier messages that the same read took. QEMU reads a byte at a time. The
// receiver looks ahead instead: a MSG_PEEK without room for descriptors leaves
// them where they are and says with MSG_CTRUNC that there are some, and halving
// the length finds the byte.
type receiver struct {
	rc  syscall.RawConn
	buf [4096]byte
}

func newReceiver(conn *net.UnixConn) (*receiver, error) {
	rc, err := conn.SyscallConn()
	return &receiver{rc: rc}, err
}

// next returns some bytes, valid until the next call, and the descriptors that
// came with the first of them, which have FD_CLOEXEC set and belong to the
// caller. The end of the stream is io.EOF.
func (r *receiver) next() (data []byte, fds []int, err error) {
	n, carry, err := r.peek(len(r.buf))
	if err != nil {
		return nil, nil, err
	}
	if carry {
		none, some := 0, n // peeks of so many bytes meet none, or some
		for some-none > 1 {
			half := (none + some) / 2
			if _, carry, err = r.peek(half); err != nil {
				return nil, nil, err
			}
			if carry {
				some = half
			} else {
				none = half
			}
		}
		n = max(none, 1)
	}
	return r.take(n)
}

// peek looks at up to n bytes and says whether descriptors come with any.
func (r *receiver) peek(n int) (got int, carry bool, err error) {
	got, _, flags, err := r.recvmsg(r.buf[:n], nil, unix.MSG_PEEK)
	return got, flags&unix.MSG_CTRUNC != 0, err
}

func (r *receiver) take(n int) ([]byte, []int, error) {
	// Just the room for MaxFiles: the kernel closes what is beyond.
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	got, oobn, _, err := r.recvmsg(r.buf[:n], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	var fds []int
	msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		if f, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, f...)
		}
	}
	return r.buf[:got], fds, nil
}

func (r *receiver) recvmsg(p, oob []byte, flags int) (n, oobn, recvflags int, err error) {
	rerr := r.rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, recvflags, _, err = unix.Recvmsg(int(fd), p, oob, flags|unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	switch {
	case rerr != nil:
		return 0, 0, 0, rerr // closed, or past the deadline
	case err == unix.ECONNRESET:
		return 0, 0, 0, io.EOF // the client left without reading everything
	case err != nil:
		return 0, 0, 0, os.NewSyscallError("recvmsg", err)
	case n == 0:
		return 0, 0, 0, io.EOF
	}
	return n, oobn, recvflags, nil
}
