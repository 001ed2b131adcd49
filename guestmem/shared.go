// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// shared is guest memory in a file. It is read by read(2), not through a mapping: setting up and tearing down page
// table entries costs more than the copy, which leaves the bytes in the cache for whoever looks at them next; holes
// read as zeros and stay holes (shmem_file_read_iter, hugetlbfs_read_iter), where a touch would
// fill them; and a file cut short, or a page that the hardware lost, is an error and no signal.
type shared struct {
	f            *os.File
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
	return dataRanges(s.f, s.offset, within, s.tmpfs)
}

func (s *shared) Read(p []byte, off int64) error {
	if err := checkRange(p, off, s.size); err != nil {
		return err
	}
	return readFile(s.f, p, s.offset+off)
}

func (s *shared) Write(p []byte, off int64) error {
	if err := checkRange(p, off, s.size); err != nil {
		return err
	}
	if s.huge != 0 {
		return s.writeMapped(p, s.offset+off)
	}
	n, err := sys.Whole(calls.Pwrite, int(s.f.Fd()), p, s.offset+off)
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

// readFile fills p. What is behind the file's end within its last page is zero, as it is in a mapping.
func readFile(f *os.File, p []byte, at int64) error {
	n, err := sys.Whole(calls.Pread, int(f.Fd()), p, at)
	if err == nil && n < len(p) {
		if len(p)-n < PageSize {
			clear(p[n:])
			return nil
		}
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("cannot read guest memory at %d of %s: %w", at+int64(n), f.Name(), err)
	}
	return nil
}

// dataRanges yields what of within is not a hole in the file, widened to pages, as lseek(2) SEEK_DATA tells. A file
// system that cannot tell calls everything data. Of a file on tmpfs what is in memory is all there is.
func dataRanges(f *os.File, offset int64, within Range, tmpfs bool) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		fd, end := int(f.Fd()), offset+within.End
		for at := offset + within.Start; at < end; {
			data, err := seek(fd, at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return
			}
			var hole int64
			if err == nil {
				hole, err = dataEnd(f, data, min(end, data+longest), tmpfs)
			}
			if err != nil {
				yield(Range{}, fmt.Errorf("cannot tell data from holes in %s: %w", f.Name(), err))
				return
			}
			r := Range{pageDown(data - offset), min(pageUp(hole-offset), within.End)}
			if r.Start >= within.End || !yield(r, nil) {
				return
			}
			at = offset + r.End
		}
	}
}

// window is how far dataEnd looks at a time, and longest how far at most, in bytes.
const (
	window  = 4 << 20
	longest = 64 << 20
)

// dataEnd returns an offset behind data up to which there is no hole; where it can, not beyond end. SEEK_HOLE alone would tell,
// but goes on to the first hole wherever that is, page by page: in a guest that uses all its memory that takes longer than
// anybody should wait for the first pages. So on tmpfs the pages of a window are counted first (cachestat(2), Linux 6.5).
func dataEnd(f *os.File, data, end int64, tmpfs bool) (int64, error) {
	if end-data <= PageSize {
		return end, nil
	}
	at := data
	for tmpfs && at < end {
		next := min((at/window+1)*window, end)
		first, last := pageDown(at), pageUp(next)
		if n, err := calls.Resident(f, first, last-first); err != nil || n < last-first {
			break
		}
		at = next
	}
	if at > data {
		return at, nil
	}
	return seek(int(f.Fd()), data, unix.SEEK_HOLE)
}

func seek(fd int, off int64, whence int) (int64, error) {
	return sys.RetryValue(func() (int64, error) { return calls.Seek(fd, off, whence) })
}
