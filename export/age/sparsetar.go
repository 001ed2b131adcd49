// SPDX-License-Identifier: Apache-2.0

package age

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/mappedram"
)

// A file with holes becomes a stream as a tar archive with one member in GNU tar's sparse format 1.0. `tar -x` makes the file of it,
// with its holes, and archive/tar reads it; it is written here because archive/tar writes no sparse files.
//
//	512  header of type x: the name of the next
//	...  its records: GNU.sparse.major, .minor, .name, .realsize; size
//	512  header of a regular file, whose content is
//	...  the number of extents, then offset and length of each, in decimal, a line each, filled with zeros to 512
//	...  the extents' bytes, one behind the other; filled to 512
//	1024 zeros

// extent is a part of a file that is no hole.
type extent struct{ off, n int64 }

// pieces calls f for each piece of the extent, from front to back: a part of buf, as long as the piece, and the piece's offset in the file.
func (x extent) pieces(ctx context.Context, buf []byte, f func(p []byte, off int64) error) error {
	for off, end := x.off, x.off+x.n; off < end; {
		if err := ctx.Err(); err != nil {
			return outputError{err}
		}
		p := buf[:min(int64(len(buf)), end-off)]
		if err := f(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// totalBytes is the length of all extents together.
func totalBytes(extents []extent) (n int64) {
	for _, x := range extents {
		n += x.n
	}
	return n
}

const (
	tarBlock = 512
	// maxExtents bounds the list of extents: readers accept a list of one megabyte (archive/tar, maxSpecialFileSize).
	maxExtents = 30000
)

// dataExtents are the parts of a file that hold data, in rising order, in whole pages but for the last: small holes count as data.
func dataExtents(f *os.File, size int64) ([]extent, error) {
	for least := int64(64 << 10); ; least *= 2 {
		all, err := extentsApart(f, size, least)
		if err != nil || len(all) <= maxExtents {
			return all, err
		}
	}
}

// extentsApart are the parts of a file that hold data, with holes of least bytes or more between them.
func extentsApart(f *os.File, size, least int64) (all []extent, err error) {
	fd := int(f.Fd())
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		hole := size
		if err == nil {
			hole, err = unix.Seek(fd, data, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot tell data from holes in %s: %w", f.Name(), err)
		}
		at = hole
		data, hole = data&^(mappedram.PageSize-1), min((hole+mappedram.PageSize-1)&^(mappedram.PageSize-1), size)
		if k := len(all) - 1; k >= 0 && data-(all[k].off+all[k].n) < least {
			all[k].n = hole - all[k].off
		} else if data < hole {
			all = append(all, extent{data, hole - data})
		}
	}
	return all, nil
}

// sparseTar writes the archive of a file of that name and size; content writes the bytes of an extent.
func sparseTar(w io.Writer, name string, size int64, extents []extent, content func(extent) error) error {
	var list strings.Builder
	// The last extent, of no bytes, marks the file's end.
	fmt.Fprintf(&list, "%d\n", len(extents)+1)
	for _, x := range extents {
		fmt.Fprintf(&list, "%d\n%d\n", x.off, x.n)
	}
	fmt.Fprintf(&list, "%d\n0\n", size)
	fillBlock(&list)
	stored := totalBytes(extents) + int64(list.Len())
	var records strings.Builder
	for _, r := range []string{
		"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + name,
		fmt.Sprintf("GNU.sparse.realsize=%d", size), fmt.Sprintf("size=%d", stored),
	} {
		records.WriteString(paxRecord(r))
	}
	head := tarHeader('x', "PaxHeaders/image", int64(records.Len()))
	fillBlock(&records)
	for _, s := range []string{head, records.String(), tarHeader('0', "GNUSparseFile/image", stored), list.String()} {
		if _, err := io.WriteString(w, s); err != nil {
			return err
		}
	}
	for _, x := range extents {
		if err := content(x); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, -stored&(tarBlock-1)+2*tarBlock))
	return err
}

// fillBlock appends zeros up to a whole block.
func fillBlock(s *strings.Builder) {
	s.WriteString(strings.Repeat("\x00", -s.Len()&(tarBlock-1)))
}

// paxRecord is a record with its length in front, which counts its own digits too (pax(1), POSIX).
func paxRecord(r string) string {
	for n := len(r) + 3; ; n++ {
		if s := fmt.Sprintf("%d %s\n", n, r); len(s) == n {
			return s
		}
	}
}

// tarHeader is a ustar header. A size that is too large for the header is in the records only.
func tarHeader(kind byte, name string, size int64) string {
	if size >= 1<<33 {
		size = 0
	}
	h := make([]byte, tarBlock)
	copy(h, name)
	copy(h[100:], "0000600\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00        ", size)) // size, time; the sum counts itself as spaces
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return string(h)
}
