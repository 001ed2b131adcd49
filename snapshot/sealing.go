// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// sealFile seals a stream that somebody else wrote into the unfinished image: its pages are read for their sums.
func (s *save) sealFile(ctx context.Context) (id seal.ID, err error) {
	s.Progress.phase("sealing")
	m := s.metadata()
	m.Format = "qemu"
	st, err := s.target.file.Stat()
	if err != nil {
		return id, err
	}
	written, err := mappedram.Open(s.target.file, st.Size())
	if err != nil {
		return id, fmt.Errorf("what QEMU wrote is no good: %w", err)
	}
	s.result.NotRestorable = notRestorable(written.Config)
	if err := s.putRunState(written); err != nil {
		return id, err
	}
	params := migration.Params{Channels: s.Channels, Direct: s.io.Direct}
	stored, sums, err := sumImage(ctx, written, s.target, params, s.takeScratch, s.Progress)
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, sums.Close()) }()
	if err := lostPages(written, stored, sums); err != nil {
		return id, err
	}
	if err := describeStream(m, written, stored); err != nil {
		return id, err
	}
	s.count(m.Blocks)
	return image.Seal(s.target.file, written.StreamEnd, m, stored, sums)
}

// lostPages looks for pages that QEMU says to have written and did not: it takes a write that was cut short for a whole one
// (file_write_ramblock_iov looks for errors only). In a new file there is a hole then, and a zero page, which
// QEMU writes none of on purpose.
func lostPages(image *mappedram.Image, stored []mappedram.Bitmap, sums *migration.Sums) error {
	for i, b := range image.Blocks {
		if b.Ignored {
			continue
		}
		err := sums.Each(i, stored[i], b.Pages(), func(v []uint64) error {
			if slices.Contains(v, zeroSum) {
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
		_, err = s.target.file.WriteAt(sections, image.SectionsOffset)
	}
	return err
}

// describeStream fills in what the metadata says of the stream itself.
func describeStream(m *seal.Metadata, of *mappedram.Image, stored []mappedram.Bitmap) (err error) {
	m.StreamOffset = of.Offset
	m.Blocks = image.Blocks(of.Blocks, stored)
	m.StreamHash, err = of.StreamHash()
	return err
}

// sumImage reads all stored pages of an image and returns which they are and their sums, kept in a file that scratch makes.
func sumImage(ctx context.Context, image *mappedram.Image, o directio.Opener, params migration.Params, scratch func() (*os.File, error), p *Progress) (stored []mappedram.Bitmap, sums *migration.Sums, err error) {
	f, err := scratch()
	if err != nil {
		return nil, nil, err
	}
	sums = migration.NewSums(f, image.Blocks)
	defer func() {
		if err != nil {
			sums.Close()
		}
	}()
	l := &migration.Load{Image: o, Params: params, Check: sums.Add}
	for i, b := range image.Blocks {
		if b.Ignored {
			stored = append(stored, nil)
			continue
		}
		bitmap, err := image.Bitmap(i)
		if err != nil {
			return nil, nil, err
		}
		stored = append(stored, bitmap)
		l.Blocks = append(l.Blocks, migration.LoadBlock{Block: b, Index: i, Stored: bitmap})
	}
	defer p.follow(&l.Progress)()
	return stored, sums, l.Run(ctx)
}
