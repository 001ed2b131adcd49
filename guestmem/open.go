// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"errors"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"golang.org/x/sys/unix"
)

// Access is what the memory is wanted for.
type Access int

// Read is for saving, ReadWrite for loading.
const (
	Read Access = iota
	ReadWrite
)

// Open finds out what kind of memory is at [addr, addr+size) in process pid and gives access to
// it. The errors say what is wrong and what to do: no permission, nothing
// mapped there (ErrNotMapped), a file that cannot be opened.
//
// Mappings that the process splits or joins meanwhile have other names in /proc then, so the list is read again if one is gone.
//
// The memory is reached by calls; nil is the kernel's.
func Open(pid int, addr uint64, size int64, access Access, calls *sys.Calls) (m Memory, err error) {
	for range 5 {
		if m, err = open(pid, addr, size, access, calls); !errors.Is(err, errNoSuchMapping) {
			return m, err
		}
	}
	return m, err
}

func open(pid int, addr uint64, size int64, access Access, calls *sys.Calls) (Memory, error) {
	s, err := findSpan(pid, addr, size)
	if err != nil {
		return nil, err
	}
	offset := int64(s.offset + (addr - s.start))
	switch {
	case s.inode == 0:
		return newPrivate(pid, addr, size, calls)
	case s.shared() && access == ReadWrite && !s.writable():
		return nil, fmt.Errorf("the process may not write to its memory in %s itself, so nothing is written there", s.path)
	case s.shared():
		f, err := openMapped(pid, s.mapping, openFlags(access))
		if err != nil {
			return nil, err
		}
		return fromFile(f, offset, size, calls)
	default:
		f, err := openMapped(pid, s.mapping, os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		return newPrivateFile(pid, addr, size, f, calls, Backing{s.device, s.inode, offset, s.path})
	}
}

func openFlags(a Access) int {
	if a == ReadWrite {
		return os.O_RDWR
	}
	return os.O_RDONLY
}

// OpenFile gives access to size bytes at offset of a file that is somebody's shared memory, a memfd
// say. It takes f over.
func OpenFile(f *os.File, offset, size int64, calls *sys.Calls) (Memory, error) {
	return fromFile(f, offset, size, calls)
}

func fromFile(f *os.File, offset, size int64, calls *sys.Calls) (Memory, error) {
	st, err := f.Stat()
	if err == nil && st.Size() < offset+size {
		err = fmt.Errorf("the memory file %s has %d bytes, the block ends at %d", f.Name(), st.Size(), offset+size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	s := &shared{f: file{f, sys.Of(calls)}, offset: offset, size: size}
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) == nil {
		s.tmpfs = fs.Type == unix.TMPFS_MAGIC
		if fs.Type == unix.HUGETLBFS_MAGIC {
			s.huge = fs.Bsize
		}
	}
	return s, nil
}
