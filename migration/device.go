// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"context"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// A block device cannot be truncated, and keeps what was on it before. So the first eight bytes of a former image are
// overwritten before anything else is written, and the places of all pages are zeroed, since a page that is not stored
// is zero in the file too.

// erase overwrites the beginning of an image at offset, and makes that durable.
func erase(f *os.File, offset uint64) error {
	size, err := directio.Size(f)
	if err != nil {
		return err
	}
	if offset > uint64(size) || uint64(size)-offset < vmstate.MagicSize {
		return qmp.Errorf("the block device has %d bytes, there is no room for an image at offset %d", size, offset)
	}
	d := &directio.File{File: f}
	if _, err := d.WriteAt(make([]byte, vmstate.MagicSize), int64(offset)); err != nil {
		return err
	}
	return d.Sync()
}

// zeroUnit is how many bytes of a device are zeroed between two checks for a cancelled migration.
const zeroUnit = 64 << 20

// clearDevice checks that an image of this layout fits on the block device f, and zeroes the places of its pages.
func clearDevice(ctx context.Context, f *directio.File, l *mappedram.Layout) error {
	size, err := directio.Size(f.File)
	if err != nil {
		return err
	}
	if l.RAMEnd >= size {
		return fmt.Errorf("the block device has %d bytes, the image needs more than %d", size, l.RAMEnd)
	}
	for _, b := range l.Blocks {
		for at := b.PagesOffset; at < b.PagesEnd(); at += zeroUnit {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := f.Zero(at, min(zeroUnit, b.PagesEnd()-at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeTail writes zeros behind the stream, which ends at end: by them a reader finds the end on a device.
func closeTail(f *directio.File, end int64) error {
	size, err := directio.Size(f.File)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, min(vmstate.EndZeros, size-end)), end)
	return err
}
