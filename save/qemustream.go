// SPDX-License-Identifier: Apache-2.0

package save

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// This file checks and corrects a stream that QEMU wrote into the unfinished image.

func openStream(f *directio.File) (*mappedram.Image, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := mappedram.Open(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("what QEMU wrote is no good: %w", err)
	}
	return m, nil
}

// writtenRunState returns the state in which QEMU found the guest when it stopped it by itself: QEMU has written that into the image.
func writtenRunState(f *directio.File) (string, error) {
	m, err := openStream(f)
	if err != nil {
		return "", err
	}
	sections, err := m.DeviceSections()
	if err != nil {
		return "", err
	}
	found, err := vmstate.RunState(sections)
	if errors.Is(err, vmstate.ErrNoGlobalState) {
		return "running", nil // a machine type that does not store it
	}
	return found, err
}

// putRunState has the stream m in f say what the VM did before the save. It was stopped for that, and QEMU wrote
// down so (global_state_store), so it would come back paused.
func putRunState(f *directio.File, m *mappedram.Image, state string) error {
	sections, err := m.DeviceSections()
	if err != nil {
		return err
	}
	err = vmstate.StoreRunState(sections, state)
	if errors.Is(err, vmstate.ErrNoGlobalState) {
		return nil // a machine type that does not store it: a loaded VM runs
	}
	if err == nil {
		_, err = f.WriteAt(sections, m.SectionsOffset)
	}
	return err
}

// lostPages refuses an image with pages that QEMU reported as written and did not write: QEMU takes a write that was cut short for a whole one
// (file_write_ramblock_iov looks for errors only). In a new file there is a hole then, and a zero page, which
// QEMU writes none of on purpose.
func lostPages(img *mappedram.Image, stored []mappedram.Bitmap, sums *transfer.Sums) error {
	for i, b := range img.Blocks {
		if b.Ignored {
			continue
		}
		err := sums.Each(i, stored[i], b.Pages(), func(v []uint64) error {
			if slices.Contains(v, transfer.ZeroSum) {
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
