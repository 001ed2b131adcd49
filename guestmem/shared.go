// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// shared is guest memory in a file, mapped here too.
type shared struct {
	f      *os.File
	offset int64
	size   int64
	mem    []byte
}

func newShared(f *os.File, offset, size int64, access Access) (*shared, error) {
	prot := unix.PROT_READ
	if access == ReadWrite {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(int(f.Fd()), offset, int(size), prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cannot map the guest memory %s: %w", f.Name(), err)
	}
	return &shared{f: f, offset: offset, size: size, mem: mem}, nil
}

func (s *shared) Size() int64 { return s.size }

// Populated goes by the file's holes: reading those through a mapping would fill them (shmem_fault).
func (s *shared) Populated(within Range) iter.Seq2[Range, error] {
	return dataRanges(s.f, s.offset, within)
}

// View is the memory itself. Its pages are brought into our page table by one call, which fails where a
// touch would be a fatal signal: the file cut short, a page that the hardware lost.
func (s *shared) View(r Range, _ []byte) ([]byte, error) {
	p := s.mem[r.Start:r.End]
	if err := populate(p, unix.MADV_POPULATE_READ); err != nil {
		return nil, fmt.Errorf("cannot read guest memory at %d of %s: %w", r.Start, s.f.Name(), err)
	}
	return p, nil
}

// Release takes the pages out of our page table (not out of the file), so that our resident size
// does not grow to the guest's.
func (s *shared) Release(r Range) { _ = unix.Madvise(s.mem[r.Start:r.End], unix.MADV_DONTNEED) }

func (s *shared) Write(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > s.size {
		return fmt.Errorf("offset %d is outside of the memory of %d bytes", off, s.size)
	}
	_, err := s.f.WriteAt(p, s.offset+off)
	return err
}

// Place is where bytes for r can be put straight into the memory, until Release.
func (s *shared) Place(r Range) ([]byte, error) {
	p := s.mem[r.Start:r.End]
	if err := populate(p, unix.MADV_POPULATE_WRITE); err != nil {
		return nil, fmt.Errorf("cannot fill guest memory at %d of %s: %w", r.Start, s.f.Name(), err)
	}
	return p, nil
}

func (s *shared) Close() error { return errors.Join(unix.Munmap(s.mem), s.f.Close()) }

// populate fills our page table for p. Kernels before 5.14 do not know the advice; pages come by faults there.
func populate(p []byte, advice int) error {
	err := unix.Madvise(p, advice)
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// dataRanges yields what of within is not a hole in the file, widened to pages, as lseek(2) SEEK_DATA tells. A file
// system that cannot tell calls everything data.
func dataRanges(f *os.File, offset int64, within Range) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		fd, end := int(f.Fd()), offset+within.End
		for at := offset + within.Start; at < end; {
			data, err := unix.Seek(fd, at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return
			}
			hole := end
			if err == nil {
				hole, err = unix.Seek(fd, data, unix.SEEK_HOLE)
			}
			if err != nil {
				yield(Range{}, fmt.Errorf("cannot tell data from holes in %s: %w", f.Name(), err))
				return
			}
			r := Range{pageDown(data - offset), min(pageUp(hole-offset), within.End)}
			if r.Start >= within.End {
				return
			}
			if !yield(r, nil) {
				return
			}
			at = offset + r.End
		}
	}
}

// hugeFile is guest memory on hugetlbfs. Touching a hole through a mapping would take a huge page from
// the pool; read(2) gives zeros without (hugetlbfs_read_iter).
type hugeFile struct {
	f            *os.File
	offset, size int64
}

func (h *hugeFile) Size() int64 { return h.size }

func (h *hugeFile) Populated(within Range) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) { yield(within, nil) }
}

func (h *hugeFile) View(r Range, buf []byte) ([]byte, error) {
	return readFile(h.f, h.offset, r, buf)
}

func readFile(f *os.File, offset int64, r Range, buf []byte) ([]byte, error) {
	buf = buf[:r.Len()]
	n, err := f.ReadAt(buf, offset+r.Start)
	if err == io.EOF {
		clear(buf[n:]) // a mapping reads zeros behind the end within its last page
		err = nil
	}
	return buf, err
}

func (h *hugeFile) Release(Range) {}

// Write maps the pages for as long as it takes: hugetlbfs has no write(2).
func (h *hugeFile) Write(p []byte, off int64) error {
	const huge = 1 << 30 // no huge page is larger; mmap wants offsets in units of the size in use
	base := (h.offset + off) &^ (huge - 1)
	end := h.offset + off + int64(len(p))
	mem, err := unix.Mmap(int(h.f.Fd()), base, int(end-base), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("cannot map the guest memory %s: %w", h.f.Name(), err)
	}
	copy(mem[h.offset+off-base:], p)
	return unix.Munmap(mem)
}

func (h *hugeFile) Close() error { return h.f.Close() }
