// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// PageSize is the unit of everything here: guest pages are 4 KiB on x86, and
// an alignment of 4 KiB satisfies the block sizes in use.
const PageSize = sys.PageSize

// Alignment is what direct I/O on a file asks for, in bytes. Zero: unknown.
type Alignment struct {
	Memory int64 // of the buffer's address
	Offset int64 // of file offset and length
}

// Fits reports whether page-sized, page-aligned transfers satisfy a.
func (a Alignment) Fits() bool { return a.Memory <= PageSize && a.Offset <= PageSize }

// ProbeAlignment asks the kernel (statx(2), STATX_DIOALIGN, Linux 6.1).
// ok is false where the kernel or the file system does not tell; an Offset
// of 0 with ok true means that the file takes no direct I/O.
func ProbeAlignment(f *os.File) (a Alignment, ok bool) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err != nil {
		return Alignment{}, false
	}
	if st.Mask&unix.STATX_DIOALIGN == 0 {
		return Alignment{}, false
	}
	return Alignment{Memory: int64(st.Dio_mem_align), Offset: int64(st.Dio_offset_align)}, true
}
