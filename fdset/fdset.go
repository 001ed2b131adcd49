// SPDX-License-Identifier: Apache-2.0

// Package fdset keeps sets of file descriptors that a client has passed over a
// monitor, and opens them under the name /dev/fdset/N.
//
// A set stands for one file of which the client has opened several descriptors.
// Who opens /dev/fdset/N gets a duplicate of the one whose access mode and
// O_DIRECT are exactly those that were asked for. So a process without any right
// to open files writes one file both with O_DIRECT and without.
//
// # Semantics
//
// They are QEMU 10's (monitor/fds.c and util/osdep.c), to the texts of errors:
//
//   - Sets are process-wide and have ids from 0 to 2^63-1, of which those up to
//     2^31-1 can be opened.
//   - A match is decided by F_GETFL at each open, newest descriptor first.
//   - A set lives as long as it has descriptors or duplicates of them are open;
//     in between it is listed without descriptors.
//
// # Differences
//
// QEMU changes the status flags of what it opens with F_SETFL, and thereby the
// client's own descriptor, which shares its open file description. This package
// never does. Where a flag cannot be left as it is (O_APPEND, because Linux then
// ignores the offsets of writes) Open refuses.
//
// QEMU finds out that a set does not fit a migration when it has begun, and
// crashes (since 10.0). [Sets.Check] looks at the whole set before.
package fdset

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"weak"
)

// Sets is a collection of descriptor sets. The zero Sets is empty and ready; all
// methods may be called by several goroutines at a time.
type Sets struct {
	mu   sync.Mutex
	sets []*set // by ascending id
}

type set struct {
	id      int64
	members []member // oldest first
	// dups are the files that Open has handed out and that may be open still.
	// They are looked at when it matters; nobody has to tell of their end.
	dups []weak.Pointer[os.File]
	// sweepAt is the number of dups at which Open looks through them.
	sweepAt int
}

// member is a descriptor in a set, owned by it.
type member struct {
	file   *os.File
	fd     int // its number here
	name   int // the number that clients know it by
	opaque *string
}

// String is how error messages name a descriptor.
func (m member) String() string {
	if m.opaque == nil {
		return fmt.Sprintf("fd=%d", m.name)
	}
	return fmt.Sprintf("fd=%d (%q)", m.name, *m.opaque)
}

// Set is a set as query-fdsets tells it.
type Set struct {
	ID  int64 `json:"fdset-id"`
	FDs []FD  `json:"fds"` // oldest first, never nil
}

// FD is a descriptor of a set.
type FD struct {
	FD     int     `json:"fd"`
	Opaque *string `json:"opaque,omitempty"` // nil if none was given
}

// Added is the answer to add-fd.
type Added struct {
	ID int64 `json:"fdset-id"`
	FD int   `json:"fd"`
}

// Add puts f into the set *id, which is made if need be, or into a new set with
// the lowest free id if id is nil. opaque, if not nil, is kept for Query. f
// belongs to the sets from then on, and is closed if Add fails.
func (s *Sets) Add(f *os.File, id *int64, opaque *string) (Added, error) {
	return s.AddAs(f, id, -1, opaque)
}

// AddAs is Add for a descriptor that clients know by another number than it has here, because they passed it to
// another process; with a negative one it is Add.
func (s *Sets) AddAs(f *os.File, id *int64, number int, opaque *string) (Added, error) {
	fd, err := rawFD(f)
	if err != nil {
		f.Close()
		return Added{}, err
	}
	if id != nil && *id < 0 {
		f.Close()
		return Added{}, &Error{Text: "Parameter 'fdset-id' expects a non-negative value", Errno: syscall.EINVAL}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if id == nil {
		free := s.lowestFree()
		id = &free
	}
	i, found := s.find(*id)
	if !found {
		s.sets = slices.Insert(s.sets, i, &set{id: *id})
	}
	if number < 0 {
		number = fd
	}
	s.sets[i].members = append(s.sets[i].members, member{f, fd, number, opaque})
	return Added{*id, number}, nil
}

func (s *Sets) lowestFree() int64 {
	for i, set := range s.sets {
		if set.id != int64(i) {
			return int64(i)
		}
	}
	return int64(len(s.sets))
}

// find returns the place of the set in s.sets, or where it would be.
func (s *Sets) find(id int64) (int, bool) {
	return slices.BinarySearchFunc(s.sets, id, func(a *set, id int64) int { return cmp.Compare(a.id, id) })
}

// Remove closes the descriptor that Add called *fd and drops it from the set, or
// all of the set's if fd is nil. Duplicates stay open, and the set with them.
func (s *Sets) Remove(id int64, fd *int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	i, found := s.find(id)
	switch {
	case !found && fd == nil:
		return &Error{Text: fmt.Sprintf("File descriptor named 'fdset-id:%d' not found", id), Errno: syscall.ENOENT}
	case fd == nil:
		for _, m := range s.sets[i].members {
			m.file.Close()
		}
		s.sets[i].members = nil
		s.sweep()
		return nil
	case found:
		set := s.sets[i]
		j := slices.IndexFunc(set.members, func(m member) bool { return int64(m.name) == *fd })
		if j < 0 {
			break
		}
		set.members[j].file.Close()
		set.members = slices.Delete(set.members, j, j+1)
		s.sweep()
		return nil
	}
	return &Error{Text: fmt.Sprintf("File descriptor named 'fdset-id:%d, fd:%d' not found", id, *fd), Errno: syscall.ENOENT}
}

// Query lists the sets in QEMU's order, highest id first.
func (s *Sets) Query() []Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	list := make([]Set, 0, len(s.sets))
	for _, set := range slices.Backward(s.sets) {
		fds := make([]FD, len(set.members))
		for i, m := range set.members {
			fds[i] = FD{m.name, m.opaque}
		}
		list = append(list, Set{set.id, fds})
	}
	return list
}

// Close removes all descriptors of all sets.
func (s *Sets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.sets {
		for _, m := range set.members {
			m.file.Close()
		}
		set.members = nil
	}
	s.sweep()
	return nil
}

// sweep drops the sets that have neither descriptors nor open duplicates.
func (s *Sets) sweep() {
	s.sets = slices.DeleteFunc(s.sets, func(set *set) bool {
		if len(set.members) > 0 {
			return false
		}
		set.forgetClosed()
		return len(set.dups) == 0
	})
}

// forgetClosed drops the duplicates that have been closed, or lost.
func (s *set) forgetClosed() {
	s.dups = slices.DeleteFunc(s.dups, func(p weak.Pointer[os.File]) bool {
		f := p.Value()
		if f == nil {
			return true
		}
		_, err := rawFD(f)
		return err != nil
	})
}

// rawFD returns the number of f's descriptor, which is valid as long as f is not
// closed. Unlike File.Fd it never changes the descriptor's flags.
func rawFD(f *os.File) (int, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	if err := rc.Control(func(fd uintptr) { n = int(fd) }); err != nil {
		return -1, fmt.Errorf("%w (%v)", os.ErrClosed, err) // its only reason
	}
	return n, nil
}
