// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"iter"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// Reserve asks for room in the image's file for the memory that exists now, where that makes direct writes faster
// (directio.File.WantsRoom). It is a hint: memory may change before Run, so the guest need not stand still yet; of each stretch
// only its two ends are looked at; and where that would leave little room for others, the VM's own disk perhaps, Run goes without,
// since not all that exists needs to be stored. Blocks with a base are left out: of them hardly anything is.
func (s *Save) Reserve(f *directio.File) error {
	if !s.Params.Direct || s.again || !f.WantsRoom() {
		return nil
	}
	found := make([][]guestmem.Range, len(s.Memory))
	need := int64(0)
	for i := range s.Memory {
		if s.Base != nil && s.Base[i] != nil {
			continue
		}
		for r, err := range s.existing(i) {
			if err != nil {
				return err
			}
			found[i] = append(found[i], r)
			need += r.Len()
		}
	}
	free, err := freeSpace(f)
	if err != nil || need > free-max(free/keptFree, minFree) {
		return nil
	}
	s.reserved = make([][]guestmem.Range, len(s.Memory))
	for i, ranges := range found {
		for _, r := range ranges {
			s.reserved[i] = append(s.reserved[i], r)
			if f.Reserve(s.Layout.Blocks[i].PagesOffset+r.Start, r.Len()) != nil {
				// As much as was found is given back. Where even that cannot be done it is room lost, and nothing else.
				_ = s.Release(f)
				s.reserved = nil
				return nil
			}
		}
	}
	return nil
}

// Of the free room of a file system one part in keptFree, and at least minFree bytes, are not reserved.
const (
	keptFree = 8
	minFree  = 64 << 20
)

// freeSpace is how many bytes may still be written in the file's file system. A test replaces it.
var freeSpace = func(f *directio.File) (int64, error) {
	var fs unix.Statfs_t
	err := unix.Fstatfs(int(f.Fd()), &fs)
	return int64(fs.Bavail) * fs.Bsize, err
}

// existing yields runs of whole stretches of a block, both ends of which exist.
func (s *Save) existing(block int) iter.Seq2[guestmem.Range, error] {
	m := s.Memory[block]
	return func(yield func(guestmem.Range, error) bool) {
		var run guestmem.Range
		for at := int64(0); at+stretch <= m.Size(); at += stretch {
			first, err := exists(m, at)
			last := false
			if err == nil && first {
				last, err = exists(m, at+stretch-guestmem.PageSize)
			}
			switch {
			case err != nil:
				yield(run, err)
				return
			case last && at == run.End && run.Len() > 0:
				run.End += stretch
			case last:
				if run.Len() > 0 && !yield(run, nil) {
					return
				}
				run = guestmem.Range{Start: at, End: at + stretch}
			}
		}
		if run.Len() > 0 {
			yield(run, nil)
		}
	}
}

// exists reports whether there is a page at off.
func exists(m guestmem.Memory, off int64) (bool, error) {
	for _, err := range m.Populated(guestmem.Range{Start: off, End: off + guestmem.PageSize}) {
		return err == nil, err
	}
	return false, nil
}

// Release gives the room back that Reserve took and no Run used: to be called after the last one.
func (s *Save) Release(f *directio.File) error {
	for i, ranges := range s.reserved {
		var written mappedram.Bitmap // nothing before the first Run
		if s.written != nil {
			written = s.written[i]
		}
		for _, r := range ranges {
			if err := s.free(f, i, r, written); err != nil {
				return err
			}
		}
	}
	s.reserved = nil
	return nil
}

// free makes holes of those pages of a range that are not written.
func (s *Save) free(f *directio.File, block int, r guestmem.Range, written mappedram.Bitmap) error {
	first, last := r.Start/guestmem.PageSize, r.End/guestmem.PageSize
	hole := func(first, end int64) error {
		if first == end {
			return nil
		}
		return f.Punch(s.Layout.Blocks[block].PagesOffset+first*guestmem.PageSize, (end-first)*guestmem.PageSize)
	}
	for start, end := range written.RunsIn(first, last) {
		if err := hole(first, start); err != nil {
			return err
		}
		first = end
	}
	return hole(first, last)
}
