// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Buffer is memory aligned to pages, outside the Go heap, so that its size
// is what it costs and the collector never scans it.
type Buffer []byte

// NewBuffer maps size bytes (rounded up to pages).
func NewBuffer(size int) (Buffer, error) {
	size = (size + PageSize - 1) &^ (PageSize - 1)
	p, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("no memory for a buffer of %d bytes: %w", size, err)
	}
	// The kernel pins the pages of a direct transfer one by one: in huge pages there are few. Only advice; small buffers and
	// kernels without transparent huge pages do without.
	_ = unix.Madvise(p, unix.MADV_HUGEPAGE)
	return p, nil
}

// Free gives the memory back; the buffer and all slices of it are dead then.
func (b Buffer) Free() {
	if b != nil {
		_ = unix.Munmap(b)
	}
}
