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

// sharePages brings the pages of sealed images into the new one without moving them: the files share their extents from then on
// (ioctl_ficlonerange(2): XFS, btrfs, bcachefs). The pages are not read; their sums come from the seals, so a damaged page is found in
// the new image too. The result is false where the file system cannot share, at all or at one place. Then all pages have to be copied, over
// those that are shared already.
func sharePages(ctx context.Context, e *export, w *image.Writer, to *directio.File, blocks []int) (bool, error) {
	if e.image.Seal == nil {
		return false, nil
	}
	for _, i := range blocks {
		err := shareBlock(ctx, e, w, to, i)
		if errors.Is(err, errNoSharing) {
			for _, k := range blocks {
				clear(w.Stored[k])
			}
			if e.o.Progress != nil {
				e.o.Progress.Done.Store(0)
			}
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// shareBlock shares the pages of block i.
func shareBlock(ctx context.Context, e *export, w *image.Writer, to *directio.File, i int) error {
	sources, err := e.image.Sources(i)
	if err != nil {
		return err
	}
	block := w.Layout.Blocks[i]
	for _, s := range sources {
		if err := sharedSums(s, w, i); err != nil {
			return err
		}
		from := s.Image.Blocks[s.Block].PagesOffset
		for first, end := range wanted(s, w.Stored[i]).Runs(block.Pages()) {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			off, n := first*mappedram.PageSize, (end-first)*mappedram.PageSize
			if err := cloneRange(to, block.PagesOffset+off, s.Image.Descriptor, from+off, n); err != nil {
				return err
			}
			if e.o.Progress != nil {
				e.o.Progress.Done.Add(n)
			}
		}
	}
	return nil
}

// sharedSums takes the sums of the source's pages from its seal. Pages that are not zero are stored in the new image.
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

// wanted are the source's pages that are in stored.
func wanted(s image.Source, stored mappedram.Bitmap) mappedram.Bitmap {
	b := make(mappedram.Bitmap, len(stored))
	for k := range b {
		b[k] = s.Pages[k] & stored[k]
	}
	return b
}

// ficlonerange is ioctl_ficlonerange(2); a test replaces it.
var ficlonerange = unix.IoctlFileCloneRange

// errNoSharing: the file system cannot share these pages.
var errNoSharing = errors.New("the files cannot share their pages")

// cloneRange has to share n bytes at offset at with those of from at offset off.
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
