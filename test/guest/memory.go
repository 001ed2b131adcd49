// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is the memory under test: pages, of which the first ones are in use,
// and a table that says of each what it has to be. The table is part of the
// guest's memory like everything else: if a snapshot lost a page of it, many
// pages of the memory would look wrong.
//
// Work on many pages is done in steps, between which others get the lock.
type memory struct {
	seed uint64

	mu     sync.Mutex
	pages  []page   // address space for as much as fits; only what was used has pages
	table  []uint32 // generation of each page, and the bit zeroed
	used   int      // pages that were ever filled are below this
	cursor int      // where touch goes on
	random uint64   // state of the dirtier's choice
	wrong  uint64   // wrong pages that the watch saw since boot
	bytes  []byte   // pages, as bytes
}

// zeroed marks a table entry of a page that has to be all zeros.
const zeroed = 1 << 31

// step is how many pages are worked on under the lock at a time.
const step = 256

// newMemory reserves address space for limit bytes. It uses none of it yet.
func newMemory(limit int, seed uint64) (*memory, error) {
	n := limit / pageSize
	b, err := reserve(n * pageSize)
	if err != nil {
		return nil, err
	}
	t, err := reserve(n * 4)
	if err != nil {
		return nil, err
	}
	// One fault for 2 MiB, not one for each page: an emulated processor spends
	// more time in a fault than in filling the page.
	unix.Madvise(b, unix.MADV_HUGEPAGE)
	unix.Madvise(t, unix.MADV_NOHUGEPAGE)
	m := &memory{
		seed:   seed,
		bytes:  b,
		pages:  unsafe.Slice((*page)(unsafe.Pointer(&b[0])), n),
		table:  unsafe.Slice((*uint32)(unsafe.Pointer(&t[0])), n),
		random: mix(seed),
	}
	return m, nil
}

func reserve(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
}

// rewrite gives page i its next generation. Called with the lock held. The table
// changes first, so that the pair is wrong only inside the lock; a snapshot in
// between holds both halves, and the guest finishes the page when it goes on.
func (m *memory) rewrite(i int) {
	m.table[i] = m.table[i]&^zeroed + 1
	m.pages[i].write(m.seed, uint64(i), m.table[i])
}

// good says whether page i is what the table says. Called with the lock held.
func (m *memory) good(i int) bool {
	if entry := m.table[i]; entry&zeroed == 0 && entry != 0 {
		return m.pages[i].is(m.seed, uint64(i), entry)
	}
	return m.pages[i].isZero()
}

// each calls f, with the lock held, for the pages from first on, n of them.
func (m *memory) each(first, n int, f func(i int)) {
	for end := first + n; first < end; {
		stop := min(first+step, end)
		m.mu.Lock()
		for ; first < stop; first++ {
			f(first)
		}
		m.mu.Unlock()
	}
}

// span checks the range of a command: n pages from first, all in use.
func (m *memory) span(first, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if first < 0 || n < 0 || first > m.used || n > m.used-first {
		return fmt.Errorf("pages %d+%d are not in the %d in use", first, n, m.used)
	}
	return nil
}

// fill makes n pages be in use and not zero: it writes those that are not yet.
func (m *memory) fill(n int) error {
	if n < 0 || n > len(m.pages) {
		return fmt.Errorf("there is address space for %d pages", len(m.pages))
	}
	m.each(0, n, func(i int) {
		if m.table[i] == 0 || m.table[i]&zeroed != 0 {
			m.rewrite(i)
		}
	})
	m.mu.Lock()
	m.used = max(m.used, n)
	m.mu.Unlock()
	return nil
}

// zero writes zeros into n pages from first: they stay the program's.
func (m *memory) zero(first, n int) error {
	if err := m.span(first, n); err != nil {
		return err
	}
	m.each(first, n, func(i int) {
		m.table[i] |= zeroed
		m.pages[i] = page{}
	})
	return nil
}

// free gives n pages from first back to the guest's kernel. They read as zeros
// from then on. What is in the memory they had is the kernel's affair.
func (m *memory) free(first, n int) error {
	if err := m.span(first, n); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := first; i < first+n; i++ {
		m.table[i] |= zeroed
	}
	return unix.Madvise(m.bytes[first*pageSize:(first+n)*pageSize], unix.MADV_DONTNEED)
}

// touch rewrites exactly n different pages, each the stride-th after the one
// before, going on where the last touch ended.
func (m *memory) touch(n, stride int) error {
	m.mu.Lock()
	used := m.used
	m.mu.Unlock()
	if n < 0 || stride < 1 || n > used || n*stride > used {
		return fmt.Errorf("%d pages, every %d, are not in the %d in use", n, stride, used)
	}
	m.each(0, n, func(int) {
		m.rewrite(m.cursor % used)
		m.cursor = (m.cursor + stride) % used
	})
	return nil
}

// dirty rewrites n pages in use, chosen at random.
func (m *memory) dirty(n int) {
	m.each(0, n, func(int) {
		if m.used > 0 {
			m.random += 0x9e3779b97f4a7c15
			m.rewrite(int(mix(m.random) % uint64(m.used)))
		}
	})
}

// report is what a check found.
type report struct {
	pages, zero int    // pages in use, and how many of them have to be zero
	wrong       int    // pages that are not what they have to be
	first       int    // the first of them
	sum         uint64 // of all pages in use as they are
}

// check looks at every page in use.
func (m *memory) check() report {
	m.mu.Lock()
	r := report{pages: m.used, first: -1}
	m.mu.Unlock()
	m.each(0, r.pages, func(i int) {
		if m.table[i]&zeroed != 0 {
			r.zero++
		}
		if !m.good(i) {
			if r.wrong++; r.first < 0 {
				r.first = i
			}
		}
		r.sum = r.sum<<1 | r.sum>>63
		r.sum += m.pages[i].sum()
	})
	return r
}

// physical returns the guest physical address of page i, from /proc/self/pagemap.
func (m *memory) physical(i int) (uint64, error) {
	if err := m.span(i, 1); err != nil {
		return 0, err
	}
	fd, err := unix.Open("/proc/self/pagemap", unix.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var entry [8]byte
	addr := uintptr(unsafe.Pointer(&m.pages[i]))
	if _, err := unix.Pread(fd, entry[:], int64(addr/pageSize*8)); err != nil {
		return 0, err
	}
	const present, frame = 1 << 63, 1<<55 - 1
	e := *(*uint64)(unsafe.Pointer(&entry))
	if e&present == 0 {
		return 0, fmt.Errorf("page %d is not in memory", i)
	}
	return e & frame * pageSize, nil
}
