// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"fmt"
	"io"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// shared is guest memory in a file. It is read by read(2), not through a mapping: setting up and tearing down page
// table entries costs more than the copy, which leaves the bytes in the cache for whoever looks at them next; holes
// read as zeros and stay holes (shmem_file_read_iter, hugetlbfs_read_iter), where a touch would
// fill them; and a file cut short, or a page that the hardware lost, is an error and no signal.
type shared struct {
	f            file
	offset, size int64
	huge         int64 // the size of its pages if it is on hugetlbfs, else 0
	tmpfs        bool  // or a memfd, which is the same
}

func (s *shared) Size() int64 { return s.size }

// Populated goes by the file's holes. On hugetlbfs nothing tells them.
func (s *shared) Populated(within Range) iter.Seq2[Range, error] {
	if s.huge != 0 {
		return func(yield func(Range, error) bool) { yield(within, nil) }
	}
	return s.f.dataRanges(s.offset, within, s.tmpfs)
}

func (s *shared) Read(p []byte, off int64) error {
	if err := checkRange(p, off, s.size); err != nil {
		return err
	}
	return s.f.read(p, s.offset+off)
}

func (s *shared) Write(p []byte, off int64) error {
	if err := checkRange(p, off, s.size); err != nil {
		return err
	}
	if s.huge != 0 {
		return s.writeMapped(p, s.offset+off)
	}
	n, err := sys.Whole(s.f.calls.Pwrite, int(s.f.Fd()), p, s.offset+off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("cannot write guest memory at %d of %s: %w", s.offset+off+int64(n), s.f.Name(), err)
	}
	return nil
}

// writeMapped maps the pages for as long as it takes: hugetlbfs has no write(2). Only whole huge pages can be unmapped again
// (hugetlb_vm_op_split).
func (s *shared) writeMapped(p []byte, at int64) error {
	base, end := at&^(s.huge-1), (at+int64(len(p))+s.huge-1)&^(s.huge-1)
	mem, err := unix.Mmap(int(s.f.Fd()), base, int(end-base), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("cannot map the guest memory %s: %w", s.f.Name(), err)
	}
	copy(mem[at-base:], p)
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("cannot unmap the guest memory %s: %w", s.f.Name(), err)
	}
	return nil
}

func (s *shared) Close() error { return s.f.Close() }

func checkRange(p []byte, off, size int64) error {
	if off < 0 || int64(len(p)) > size-off {
		return fmt.Errorf("bytes %d to %d are outside of the memory of %d bytes", off, off+int64(len(p)), size)
	}
	return nil
}
