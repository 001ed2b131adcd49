// SPDX-License-Identifier: Apache-2.0

// Package guestmem sees guest memory from outside the guest, one RAM block at a time.
//
// A block is one of three things, and Open finds out which:
//
//	shared file   memfd, /dev/shm, a file: read and written as a file
//	private       anonymous memory of another process: copied page by page
//	              (process_vm_readv(2)), after asking which pages exist
//	private file  a copy-on-write mapping of a file, as an instantly restored VM
//	              has: what the process changed is copied, the rest read from the file
//
// Looking never allocates: a page that the guest has not touched is a hole
// before and after. The memory must not change while it is read, or the
// reader must be able to live with pages of different times.
package guestmem

import (
	"bytes"
	"iter"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// PageSize is the unit of everything here, the guest page of x86.
const PageSize = sys.PageSize

// Range is a part of a block: bytes [Start, End), multiples of PageSize.
type Range struct{ Start, End int64 }

// Len is the range's size in bytes.
func (r Range) Len() int64 { return r.End - r.Start }

// Memory is one RAM block. Its methods may be called from several goroutines at a time.
type Memory interface {
	// Size is the block's length in bytes.
	Size() int64

	// Populated yields in rising order the parts of within that may hold
	// something other than zeros, neighbours in one piece or several; all else is zero, and was not read. It stops after
	// the first error.
	Populated(within Range) iter.Seq2[Range, error]

	// Read fills p from off, all of it.
	Read(p []byte, off int64) error

	// Write puts p into the block at off: for loading, before a guest runs.
	Write(p []byte, off int64) error

	// Close gives up the access; the guest's memory stays.
	Close() error
}

// Changed is a Memory that knows which of its pages are no longer those of the file
// that it was mapped from.
type Changed interface {
	Memory
	// Changed yields in rising order the parts of within that the process has made its own.
	Changed(within Range) iter.Seq2[Range, error]
	// Touched yields in rising order the parts of within that the process has in its page table: its own, and those of the
	// file that it has read (with a few neighbours, do_fault_around).
	Touched(within Range) iter.Seq2[Range, error]
	// ReadChanged fills p with the bytes of ranges that Changed gave, one behind the other.
	ReadChanged(p []byte, ranges []Range) error
	// Backing says what file is beneath.
	Backing() Backing
}

// ByProcess is a Memory that is not read from a file but from the process that has it, with ptrace(2) access each time.
type ByProcess interface {
	Memory
	// ByDescriptor has it be read through a descriptor that is open from here on, for a caller that is about to give up ptrace(2)
	// access to the process (Landlock). It is for reading only, and not while the memory is in use. Reading costs two to four
	// times the processor time then, since /proc/PID/mem copies each page twice (mem_rw): 5 GB/s, where process_vm_readv(2)
	// makes 10, and 25 in huge pages.
	ByDescriptor() error
}

// Backing is the file that a block is mapped from.
type Backing struct {
	Device, Inode uint64
	Offset        int64  // of the block's first byte in the file
	Path          string // as the kernel tells it; " (deleted)" and all
}

var zeroPage [PageSize]byte

// IsZero reports whether p, a whole number of pages, is all zeros. It ends at
// the first page that is not.
func IsZero(p []byte) bool {
	for len(p) >= PageSize {
		if !bytes.Equal(p[:PageSize], zeroPage[:]) {
			return false
		}
		p = p[PageSize:]
	}
	return bytes.Equal(p, zeroPage[:len(p)])
}

// pageUp and pageDown round to pages.
func pageUp(n int64) int64   { return (n + PageSize - 1) &^ (PageSize - 1) }
func pageDown(n int64) int64 { return n &^ (PageSize - 1) }
