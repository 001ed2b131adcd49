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

// file is a file that guest memory lies in, or is mapped from.
type file struct {
	*os.File
	calls *sys.Calls
}

// read fills p. What is behind the file's end within its last page is zero, as it is in a mapping.
func (f file) read(p []byte, at int64) error {
	n, err := sys.Whole(f.calls.Pread, int(f.Fd()), p, at)
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

// resident is how many bytes of whole pages at off are in the page cache (cachestat(2), Linux 6.5).
func (f file) resident(off, n int64) (int64, error) {
	var stat unix.Cachestat_t
	err := f.calls.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &stat)
	return int64(stat.Cache) * PageSize, err
}

// dataRanges yields what of within is not a hole in the file, widened to pages, as lseek(2) SEEK_DATA tells. A file
// system that cannot tell calls everything data. Of a file on tmpfs what is in memory is all there is.
func (f file) dataRanges(offset int64, within Range, tmpfs bool) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		end := offset + within.End
		for at := offset + within.Start; at < end; {
			data, err := f.seek(at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return
			}
			var hole int64
			if err == nil {
				hole, err = f.dataEnd(data, min(end, data+longest), tmpfs)
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
func (f file) dataEnd(data, end int64, tmpfs bool) (int64, error) {
	if end-data <= PageSize {
		return end, nil
	}
	at := data
	for tmpfs && at < end {
		next := min((at/window+1)*window, end)
		first, last := pageDown(at), pageUp(next)
		if n, err := f.resident(first, last-first); err != nil || n < last-first {
			break
		}
		at = next
	}
	if at > data {
		return at, nil
	}
	return f.seek(data, unix.SEEK_HOLE)
}

func (f file) seek(off int64, whence int) (int64, error) {
	return sys.RetryValue(func() (int64, error) { return f.calls.Seek(int(f.Fd()), off, whence) })
}
