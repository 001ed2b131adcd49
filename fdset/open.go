// SPDX-License-Identifier: Apache-2.0

package fdset

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"weak"

	"golang.org/x/sys/unix"
)

// Prefix is what paths that name a set begin with.
const Prefix = "/dev/fdset/"

// matchFlags must be the same in a descriptor and in the request for it.
const matchFlags = unix.O_ACCMODE | unix.O_DIRECT

// Error is a refusal in QEMU's words.
type Error struct {
	Text string
	// Errno is what QEMU sets errno to along with it; errors.Is finds it.
	Errno syscall.Errno
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns Errno.
func (e *Error) Unwrap() error { return e.Errno }

// IsPath reports whether path is under Prefix, and so for Open.
func IsPath(path string) bool { return strings.HasPrefix(path, Prefix) }

// ParsePath returns the id of the set that path names. As with C's strtol there
// may be white space and a sign before the decimal number, which goes up to
// 2^31-1, and nothing after it.
func ParsePath(path string) (int64, error) {
	digits, ok := strings.CutPrefix(path, Prefix)
	digits = strings.TrimLeft(digits, " \t\n\v\f\r")
	n, err := strconv.ParseInt(digits, 10, 32)
	if !ok || err != nil || n < 0 {
		return 0, &Error{Text: "Could not parse fdset " + path, Errno: syscall.EINVAL}
	}
	return n, nil
}

// Open returns a duplicate of the newest descriptor in the set that path names
// whose access mode and O_DIRECT are those of flags. It shares the open file
// description with the set's and the client's descriptor: the position and the
// flags are common to them, and the flags are left as they are.
//
// With O_TRUNC, or O_CREAT and O_EXCL both, the file is truncated to nothing.
// O_SYNC and O_DSYNC must be as the descriptor has them. Other flags are ignored.
//
// The set keeps a record of the file until it is closed.
func (s *Sets) Open(path string, flags int) (*os.File, error) {
	id, err := ParsePath(path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.get(id)
	if err != nil {
		return nil, err
	}
	m, have, err := set.match(flags)
	if err != nil {
		return nil, err
	}
	f, err := m.duplicate(path, flags, have)
	if err != nil {
		return nil, err
	}
	set.remember(f)
	return f, nil
}

// get returns the set, which may have no descriptors as long as it has duplicates.
func (s *Sets) get(id int64) (*set, error) {
	s.sweep()
	i, found := s.find(id)
	if !found {
		return nil, &Error{Text: fmt.Sprintf("Failed to find fdset %s%d", Prefix, id), Errno: syscall.ENOENT}
	}
	return s.sets[i], nil
}

// match finds the descriptor for a request, and the status flags it has.
func (s *set) match(flags int) (m member, have int, err error) {
	for _, m := range slices.Backward(s.members) {
		have, err := unix.FcntlInt(uintptr(m.fd), unix.F_GETFL, 0)
		if err != nil {
			return m, 0, &Error{Text: fmt.Sprintf("Failed to read file status flags for fd=%d", m.name), Errno: errno(err)}
		}
		if have&matchFlags == flags&matchFlags {
			return m, have, nil
		}
	}
	return m, 0, &Error{Text: fmt.Sprintf("Failed to find file descriptor with matching flags=0x%x", flags), Errno: syscall.EACCES}
}

// duplicate makes the file that Open returns.
func (m member) duplicate(path string, flags, have int) (*os.File, error) {
	failed := func(err error) error {
		return &Error{Text: fmt.Sprintf("Failed to dup() given file descriptor fd=%d", m.name), Errno: errno(err)}
	}
	if have&unix.O_SYNC != flags&unix.O_SYNC {
		return nil, failed(syscall.EINVAL)
	}
	if have&unix.O_APPEND != 0 && flags&unix.O_APPEND == 0 && have&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, &Error{Text: fmt.Sprintf("File descriptor %v is open with O_APPEND, which makes Linux ignore where to write: "+
			"pass one that was opened without", m), Errno: syscall.EINVAL}
	}
	fd, err := unix.FcntlInt(uintptr(m.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, failed(err)
	}
	const exclusive = unix.O_CREAT | unix.O_EXCL
	if flags&unix.O_TRUNC != 0 || flags&exclusive == exclusive {
		if err := unix.Ftruncate(fd, 0); err != nil {
			unix.Close(fd)
			return nil, failed(err)
		}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// remember notes a duplicate. Closed ones are forgotten whenever the number has
// doubled, so that the cost of one Open does not depend on how many there were.
func (s *set) remember(f *os.File) {
	const few = 16
	if len(s.dups) >= max(s.sweepAt, few) {
		s.forgetClosed()
		s.sweepAt = 2 * len(s.dups)
	}
	s.dups = append(s.dups, weak.Make(f))
}

func errno(err error) syscall.Errno {
	e, _ := err.(syscall.Errno)
	return e
}

// Opener opens one set; it is what the engine is given in place of a path.
type Opener struct {
	Sets *Sets
	Path string
}

// Open is Sets.Open with the opener's path.
func (o Opener) Open(flags int) (*os.File, error) { return o.Sets.Open(o.Path, flags) }
