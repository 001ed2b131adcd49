// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// sealFile seals a stream that somebody else wrote into the unfinished image: its pages are read for their sums.
func (s *save) sealFile(ctx context.Context) (id seal.ID, err error) {
	s.Progress.SetPhase("sealing")
	m := s.metadata()
	m.Format = "qemu"
	st, err := s.target.File.Stat()
	if err != nil {
		return id, err
	}
	written, err := mappedram.Open(s.target.File, st.Size())
	if err != nil {
		return id, fmt.Errorf("what QEMU wrote is no good: %w", err)
	}
	s.result.NotRestorable = image.NotRestorable(written.Config)
	if err := s.putRunState(written); err != nil {
		return id, err
	}
	params := transfer.Params{Channels: s.Channels, Direct: s.io.Direct}
	stored, sums, err := image.SumImage(ctx, written, s.target, params, s.takeScratch, s.Progress)
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, sums.Close()) }()
	if err := lostPages(written, stored, sums); err != nil {
		return id, err
	}
	if err := image.DescribeStream(m, written, stored); err != nil {
		return id, err
	}
	s.count(m.Blocks)
	return image.Seal(s.target.File, written.StreamEnd, m, stored, sums)
}

// lostPages looks for pages that QEMU says to have written and did not: it takes a write that was cut short for a whole one
// (file_write_ramblock_iov looks for errors only). In a new file there is a hole then, and a zero page, which
// QEMU writes none of on purpose.
func lostPages(img *mappedram.Image, stored []mappedram.Bitmap, sums *transfer.Sums) error {
	for i, b := range img.Blocks {
		if b.Ignored {
			continue
		}
		err := sums.Each(i, stored[i], b.Pages(), func(v []uint64) error {
			if slices.Contains(v, image.ZeroSum) {
				return fmt.Errorf("QEMU lost pages of block %s while it wrote them: save again, elsewhere or with --engine=ramjet", b.Name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// putRunState has the stream say what the VM did before the save. It was stopped for that, and QEMU wrote
// down so (global_state_store), so it would come back paused.
func (s *save) putRunState(image *mappedram.Image) error {
	sections, err := image.DeviceSections()
	if err != nil {
		return err
	}
	err = vmstate.StoreRunState(sections, s.pause.ImageState())
	if errors.Is(err, vmstate.ErrNoGlobalState) {
		return nil // a machine type that does not store it: a loaded VM runs
	}
	if err == nil {
		_, err = s.target.File.WriteAt(sections, image.SectionsOffset)
	}
	return err
}
