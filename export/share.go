// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// share brings the pages of sealed images into the new one without moving them: the files share their extents from
// then on (ioctl_ficlonerange(2): XFS, btrfs, bcachefs). Nobody looks at the pages; their sums come from the seals, so that
// one which is damaged is found in the new image too. It returns false where the file system cannot, at all or at one place: then all
// pages have to be moved, over those that are shared already; moving them through the kernel alone would save little and check nothing.
func (e *export) share(ctx context.Context, w *image.Writer, to *directio.File, blocks []int) (bool, error) {
	if e.image.Seal == nil {
		return false, nil
	}
	for _, i := range blocks {
		sources, err := e.image.Sources(i)
		if err != nil {
			return true, err
		}
		for _, s := range sources {
			if err := sharedSums(s, w, i); err != nil {
				return true, err
			}
			from, at := s.Image.Blocks[s.Block].PagesOffset, w.Layout.Blocks[i].PagesOffset
			for first, end := range wanted(s, w.Stored[i]).Runs(w.Layout.Blocks[i].Pages()) {
				if err := context.Cause(ctx); err != nil {
					return true, err
				}
				off, n := first*mappedram.PageSize, (end-first)*mappedram.PageSize
				err := cloneRange(to, at+off, s.Image.F, from+off, n)
				if errors.Is(err, errNoSharing) {
					for _, k := range blocks {
						clear(w.Stored[k])
					}
					if e.Progress != nil {
						e.Progress.Done.Store(0)
					}
					return false, nil
				}
				if err != nil {
					return true, err
				}
				if e.Progress != nil {
					e.Progress.Done.Add(n)
				}
			}
		}
	}
	return true, nil
}

// sharedSums takes the sums of the pages from the seal. Those that are not zero are stored in the new image.
func sharedSums(s image.Source, w *image.Writer, i int) error {
	ranks := mappedram.NewRanks(s.Stored)
	for first, end := range s.Pages.Runs(w.Layout.Blocks[i].Pages()) {
		for first < end {
			n := min(end-first, transfer.MaxSums)
			sums, err := s.Image.Seal.Sums(s.Block, int(ranks.Before(first)), int(n))
			if err != nil {
				return err
			}
			if err := w.Sums.Put(i, first, sums); err != nil {
				return err
			}
			for k, sum := range sums {
				if sum != transfer.ZeroSum {
					w.Stored[i].Set(first + int64(k))
				}
			}
			first += n
		}
	}
	return nil
}

// wanted are those of the source's pages that are in stored.
func wanted(s image.Source, stored mappedram.Bitmap) mappedram.Bitmap {
	b := make(mappedram.Bitmap, len(stored))
	for k := range b {
		b[k] = s.Pages[k] & stored[k]
	}
	return b
}

// ficlonerange is ioctl_ficlonerange(2); a test replaces it.
var ficlonerange = unix.IoctlFileCloneRange

var errNoSharing = errors.New("the files cannot share their pages")

func cloneRange(to *directio.File, at int64, from *os.File, off, n int64) error {
	err := ficlonerange(int(to.Fd()), &unix.FileCloneRange{
		Src_fd: int64(from.Fd()), Src_offset: uint64(off), Src_length: uint64(n), Dest_offset: uint64(at),
	})
	for _, no := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL} {
		if errors.Is(err, no) {
			return errNoSharing
		}
	}
	if err != nil {
		return &os.PathError{Op: "share pages of", Path: from.Name(), Err: err}
	}
	return nil
}
