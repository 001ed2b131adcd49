// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"golang.org/x/sys/unix"
)

// A diary is what was done to the files of one directory, in its order, up to a power cut: as a disk sees it.
//
// The model of what a power cut leaves is that of fsync(2) and no more, weaker than any real file system. Of a
// file: all that was done to it before an fsync of it, and of what was done later each page, or each half of a page that
// was torn, or not; a change of its length or not. Of a directory: the names as of its last fsync, and of the changes
// after that any, but those in their order: a journal does not reorder.
type diary struct {
	mu    sync.Mutex
	steps []step
}

// step is one change, or one fsync.
type step struct {
	what  kind // pwrite, ftruncate, fallocate, fsync, link (also when a file is made), rename, unlink
	inode uint64
	data  []byte
	off   int64 // or the new length
	n     int64
	from  string // names
	to    string
}

// of is the inode behind a descriptor.
func (d *diary) of(fd int) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		panic(err)
	}
	return st.Ino
}

// note does the work and writes it down as one.
func (d *diary) note(s step, work func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := work()
	if err == nil {
		d.steps = append(d.steps, s)
	}
	return err
}

// wrap has the changes that c makes noted.
func (d *diary) wrap(c *sys.Calls) {
	old := *c
	c.Open = func(path string, flags int, mode uint32) (fd int, err error) {
		if flags&unix.O_CREAT == 0 {
			return old.Open(path, flags, mode)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if fd, err = old.Open(path, flags, mode); err == nil {
			d.steps = append(d.steps, step{what: link, inode: d.of(fd), to: path})
		}
		return fd, err
	}
	c.Pwrite = func(fd int, p []byte, off int64) (n int, err error) {
		s := step{what: pwrite, inode: d.of(fd), off: off, data: append([]byte(nil), p...)}
		err = d.note(s, func() error {
			if n, err = old.Pwrite(fd, p, off); err == nil && n < len(p) {
				err = fmt.Errorf("short write")
			}
			return err
		})
		return n, err
	}
	c.Ftruncate = func(fd int, n int64) error {
		return d.note(step{what: ftruncate, inode: d.of(fd), off: n}, func() error { return old.Ftruncate(fd, n) })
	}
	c.Fallocate = func(fd int, mode uint32, off, n int64) error {
		return d.note(step{what: fallocate, inode: d.of(fd), off: off, n: n}, func() error { return old.Fallocate(fd, mode, off, n) })
	}
	// What is written while an fsync is under way need not be covered by it, so it counts from its beginning; nobody
	// does that here, but the model shall be right.
	c.Fsync = func(fd int) error {
		return d.note(step{what: fsync, inode: d.of(fd)}, func() error { return old.Fsync(fd) })
	}
	c.Link = func(from, to string) error {
		var st unix.Stat_t
		if err := unix.Stat(from, &st); err != nil {
			return err
		}
		return d.note(step{what: link, inode: st.Ino, to: to}, func() error { return old.Link(from, to) })
	}
	c.Rename = func(from, to string, flags uint) error {
		return d.note(step{what: rename, from: from, to: to}, func() error { return old.Rename(from, to, flags) })
	}
	c.Unlink = func(path string) error {
		return d.note(step{what: unlink, from: path}, func() error { return old.Unlink(path) })
	}
}

// changesOf are the steps before cut that concern a file, and how many of them an fsync has made durable.
func (d *diary) changesOf(inode uint64, cut int) (changes []step, durable int) {
	for _, s := range d.steps[:cut] {
		switch {
		case s.inode != inode || s.what == link:
		case s.what == fsync:
			durable = len(changes)
		default:
			changes = append(changes, s)
		}
	}
	return changes, durable
}

const torn = 512 // bytes of a page that a disk writes at once

// file makes the file at path as a power cut after the first cut steps leaves it.
func (d *diary) file(t *testing.T, r *rand.Rand, inode uint64, cut int, path string) {
	t.Helper()
	f, err := os.Create(path)
	do(t, err)
	defer f.Close()
	changes, durable := d.changesOf(inode, cut)
	for _, s := range changes[:durable] {
		d.apply(t, f, s, func(int64) (int64, int64) { return 0, 4096 })
	}
	rest := changes[durable:]
	// What was lost of the rest: how much differs from one power cut to the next, from nothing to all.
	lost := []float64{0, 0.01, 0.1, 0.5, 0.9, 0.99, 1}[r.IntN(7)]
	r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	for _, s := range rest {
		d.apply(t, f, s, func(int64) (int64, int64) {
			switch {
			case r.Float64() < lost:
				return 0, 0
			case r.Float64() < 0.02:
				return torn * r.Int64N(5), torn * (4 + r.Int64N(5))
			}
			return 0, 4096
		})
	}
}

// apply does what keep leaves of a step: it is asked for each page which part of it got to the disk.
func (d *diary) apply(t *testing.T, f *os.File, s step, keep func(page int64) (from, to int64)) {
	t.Helper()
	switch s.what {
	case ftruncate:
		if from, to := keep(0); to > from {
			do(t, f.Truncate(s.off))
		}
		return
	case fallocate:
		if from, to := keep(0); to > from {
			s.data = make([]byte, s.n)
		} else {
			return
		}
	}
	end := s.off + int64(len(s.data))
	run := s.off // what is whole is written in one piece
	flush := func(upTo int64) {
		if upTo > run {
			_, err := f.WriteAt(s.data[run-s.off:upTo-s.off], run)
			do(t, err)
		}
	}
	for at := s.off; at < end; {
		page := at &^ 4095
		stop := min(page+4096, end)
		from, to := keep(page / 4096)
		if from > 0 || to < 4096 {
			flush(at)
			if lo, hi := max(at, page+from), min(stop, page+to); hi > lo {
				_, err := f.WriteAt(s.data[lo-s.off:hi-s.off], lo)
				do(t, err)
			}
			run = stop
		}
		at = stop
	}
	flush(end)
}

// names are the names in the directory, as a power cut after the first cut steps leaves them, by inode.
func (d *diary) names(r *rand.Rand, before map[string]uint64, dirInode uint64, cut int) map[string]uint64 {
	names := map[string]uint64{}
	for k, v := range before {
		names[k] = v
	}
	durable, changes := 0, []step(nil)
	for _, s := range d.steps[:cut] {
		switch {
		case s.what == fsync && s.inode == dirInode:
			durable = len(changes)
		case s.what == link, s.what == rename, s.what == unlink:
			changes = append(changes, s)
		}
	}
	for _, s := range changes[:durable+r.IntN(len(changes)-durable+1)] {
		switch s.what {
		case link:
			names[filepath.Base(s.to)] = s.inode
		case rename:
			names[filepath.Base(s.to)] = names[filepath.Base(s.from)]
			delete(names, filepath.Base(s.from))
		case unlink:
			delete(names, filepath.Base(s.from))
		}
	}
	return names
}

func (d *diary) String() string {
	var b strings.Builder
	for i, s := range d.steps {
		fmt.Fprintf(&b, "%d: %s of %d: %d bytes at %d, %s -> %s\n", i, s.what, s.inode, len(s.data), s.off, s.from, s.to)
	}
	return b.String()
}
