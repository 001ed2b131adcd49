// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffer is memory aligned to pages, outside the Go heap, so that its size
// is what it costs and the collector never scans it.
type Buffer []byte

// hugePage is the size of a transparent huge page, in bytes (amd64).
const hugePage = 2 << 20

// NewBuffer maps size bytes (rounded up to pages), in huge pages if it is as large as one and the kernel gives them: it pins the
// pages of a direct transfer one by one, and a device takes what lies together in memory at once.
func NewBuffer(size int) (Buffer, error) {
	size = (size + PageSize - 1) &^ (PageSize - 1)
	room := size
	if size >= hugePage {
		room += hugePage
	}
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(room), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("no memory for a buffer of %d bytes: %w", size, err)
	}
	if room > size {
		p = align(p, uintptr(size))
	}
	b := Buffer(unsafe.Slice((*byte)(p), size))
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // only advice
	return b, nil
}

// align finds n bytes that begin where a huge page can, in a mapping of n bytes and a huge page, and gives the rest back. mmap(2)
// does that by itself only since Linux 6.7.
func align(p unsafe.Pointer, n uintptr) unsafe.Pointer {
	before := -uintptr(p) % hugePage
	start := unsafe.Add(p, before)
	if before > 0 {
		_ = unix.MunmapPtr(p, before)
	}
	_ = unix.MunmapPtr(unsafe.Add(start, n), hugePage-before)
	return start
}

// Free gives the memory back; the buffer and all slices of it are dead then.
func (b Buffer) Free() {
	if b != nil {
		_ = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(cap(b)))
	}
}
