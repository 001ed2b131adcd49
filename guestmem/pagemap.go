// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// pagemap tells which pages of a process exist and whose they are.
type pagemap struct {
	calls *sys.Calls
	f     *os.File
	pid   int
	old   atomic.Bool // no PAGEMAP_SCAN (before Linux 6.7): read the entries
}

func openPagemap(pid int, calls *sys.Calls) (*pagemap, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, permission(pid, err)
	}
	return &pagemap{f: f, pid: pid, calls: sys.Of(calls)}, nil
}

// Categories of PAGEMAP_SCAN (linux/fs.h, Documentation/admin-guide/mm/pagemap.rst).
const (
	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsPFNZero = 1 << 5
)

// want is a set of pages: all those that are present or swapped out, and of none of the categories in not.
type want struct{ not uint64 }

var (
	// populated leaves out what was only read, which is the one zero page.
	populated = want{not: pageIsPFNZero}
	// present is whatever is there.
	present = want{}
	// own leaves out what still belongs to the file beneath a private mapping. A page in
	// swap has been made private, or it would have gone back to its file. So has the one zero page,
	// which KSM puts in the place of the process's own zero pages (use_zero_pages).
	own = want{not: pageIsFile}
)

// pmScanArg is struct pm_scan_arg.
type pmScanArg struct {
	size, flags, start, end, walkEnd uint64
	// A pointer, not a number, so that what it points to stays where it is.
	vec                                                                   *[256]pageRegion
	vecLen, maxPages                                                      uint64
	categoryInverted, categoryMask, categoryAnyOfMask, returnMaskOfResult uint64
}

// pageRegion is struct page_region.
type pageRegion struct{ start, end, _ uint64 }

// pages yields, as offsets from addr, the pages of [addr+r.Start, addr+r.End) that are in w.
func (p *pagemap) pages(addr uint64, r Range, w want) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		for r.Start < r.End {
			var found []Range
			var next int64
			var err error
			if !p.old.Load() {
				found, next, err = p.scan(addr, r, w)
				if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
					p.old.Store(true)
				}
			}
			if p.old.Load() {
				found, next, err = p.read(addr, r, w)
			}
			if err != nil {
				yield(Range{}, fmt.Errorf("cannot tell which pages process %d has: %w", p.pid, err))
				return
			}
			for _, f := range found {
				if !yield(f, nil) {
					return
				}
			}
			r.Start = next
		}
	}
}

// scan asks for as many regions as fit and says where to go on.
func (p *pagemap) scan(addr uint64, r Range, w want) (found []Range, next int64, err error) {
	var regions [256]pageRegion
	arg := pmScanArg{
		size:              uint64(unsafe.Sizeof(pmScanArg{})),
		start:             addr + uint64(r.Start),
		end:               addr + uint64(r.End),
		vec:               &regions,
		vecLen:            uint64(len(regions)),
		categoryInverted:  w.not,
		categoryMask:      w.not,
		categoryAnyOfMask: pageIsPresent | pageIsSwapped,
	}
	n, err := sys.RetryValue(func() (int, error) { return p.calls.Scan(int(p.f.Fd()), unsafe.Pointer(&arg)) })
	if err != nil {
		return nil, 0, err
	}
	for _, g := range regions[:n] {
		found = append(found, Range{int64(g.start - addr), int64(g.end - addr)})
	}
	if err := p.stillThere(addr + uint64(r.Start)); err != nil {
		return nil, 0, err
	}
	next = int64(arg.walkEnd - addr)
	if next <= r.Start {
		return nil, 0, fmt.Errorf("PAGEMAP_SCAN does not get on at %#x", arg.walkEnd)
	}
	return found, next, nil
}

// errEnded: the memory went with its process.
var errEnded = errors.New("the process has ended")

// stillThere fails when the process's memory is gone. It is asked after each scan, because a scan of a process that has
// ended may find nothing and no error (seen on Linux 6.18), and one that meets the end finds only a part. Reading an entry takes
// a reference to memory that is in use (pagemap_read: mmget_not_zero), so memory that is there afterwards was there during the scan.
func (p *pagemap) stillThere(addr uint64) error {
	var entry [8]byte
	n, err := sys.Whole(p.calls.Pread, int(p.f.Fd()), entry[:], int64(addr/PageSize*8))
	if err == nil && n < len(entry) {
		err = errEnded
	}
	return err
}

// Bits of an entry of /proc/PID/pagemap.
const (
	entryPresent = 1 << 63
	entrySwapped = 1 << 62
	entryFile    = 1 << 61
)

// read looks at the entries themselves, some at a time. The zero page cannot be
// told apart here; the reader of the page sees that it is zero.
func (p *pagemap) read(addr uint64, r Range, w want) (found []Range, next int64, err error) {
	var entries [8192 * 8]byte
	n := min(r.Len()/PageSize, int64(len(entries)/8))
	at := int64((addr + uint64(r.Start)) / PageSize * 8)
	if got, err := sys.Whole(p.calls.Pread, int(p.f.Fd()), entries[:n*8], at); err != nil {
		return nil, 0, err
	} else if int64(got) < n*8 {
		return nil, 0, errEnded
	}
	for i := int64(0); i < n; i++ {
		e := binary.NativeEndian.Uint64(entries[i*8:])
		if e&(entryPresent|entrySwapped) == 0 || w.not&pageIsFile != 0 && e&entryFile != 0 {
			continue
		}
		at := r.Start + i*PageSize
		if k := len(found) - 1; k >= 0 && found[k].End == at {
			found[k].End += PageSize
		} else {
			found = append(found, Range{at, at + PageSize})
		}
	}
	return found, r.Start + n*PageSize, nil
}

func (p *pagemap) Close() error { return p.f.Close() }
