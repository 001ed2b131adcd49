// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"os"

	"golang.org/x/sys/unix"
)

// Cached reports whether all of the n bytes at off are in the page cache (cachestat(2), Linux 6.5); false where nobody can say.
// Reads of them through the cache take no I/O then.
func Cached(f *os.File, off, n int64) bool {
	resident, err := Resident(f, off, n)
	first, end := off/PageSize, (off+n+PageSize-1)/PageSize
	return err == nil && resident >= (end-first)*PageSize
}

// Resident is how many bytes of the pages that the n bytes at off touch are in the page cache; all of the file from off on with n of 0.
func Resident(f *os.File, off, n int64) (int64, error) {
	var c unix.Cachestat_t
	r := unix.CachestatRange{Off: uint64(off), Len: uint64(n)}
	if err := unix.Cachestat(uint(f.Fd()), &r, &c, 0); err != nil {
		return 0, &os.PathError{Op: "cachestat", Path: f.Name(), Err: err}
	}
	return int64(c.Cache) * int64(os.Getpagesize()), nil
}
