// SPDX-License-Identifier: Apache-2.0

// Package testkit has what tests of several packages need. It stands on the file formats alone, so that the tests of every room above
// them can use it.
package testkit

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Check ends the test if err is not nil.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Change writes b into a file at offset at.
func Change(t testing.TB, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	Check(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, at)
	Check(t, err)
}

// Flip flips a bit of a file, counted from 0, the lowest of each byte first.
func Flip(t testing.TB, path string, bit int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	Check(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], bit/8)
	Check(t, err)
	b[0] ^= 1 << (bit % 8)
	_, err = f.WriteAt(b[:], bit/8)
	Check(t, err)
}

// Copy copies a file into a directory of the test's.
func Copy(t testing.TB, from string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	Check(t, err)
	to := filepath.Join(t.TempDir(), fmt.Sprintf("copy-%d", rand.Uint32()))
	Check(t, os.WriteFile(to, b, 0o600))
	return to
}

// Sockets returns the two ends of a connection, which are closed with the test.
func Sockets(t testing.TB) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	Check(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		f.Close()
		Check(t, err)
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}
