// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// A block device as the file of a migration cannot be truncated: it has a length, and what was on it before. So before anything else
// is written the first eight bytes of a former image are overwritten, and the places of all pages, since a page that is not stored is
// zero in the file too.

// erase makes sure that no image begins at offset any more, and that this is durable.
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

// zeroUnit is how much of a device is zeroed at a time, in bytes, until somebody cancels.
const zeroUnit = 64 << 20

// room checks that an image has room on a block device, and zeroes the places of its pages.
func (t *migrating) room(ctx context.Context) error {
	size, err := directio.Size(t.file.File)
	if err != nil {
		return err
	}
	if t.layout.RAMEnd >= size {
		return fmt.Errorf("the block device has %d bytes, the image needs more than %d", size, t.layout.RAMEnd)
	}
	for _, b := range t.layout.Blocks {
		for at := b.PagesOffset; at < b.PagesEnd(); at += zeroUnit {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := t.file.Zero(at, min(zeroUnit, b.PagesEnd()-at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeTail writes the zeros by which the end of the stream is known on a device.
func (t *migrating) closeTail(end int64) error {
	size, err := directio.Size(t.file.File)
	if err != nil {
		return err
	}
	_, err = t.file.WriteAt(make([]byte, min(vmstate.EndZeros, size-end)), end)
	return err
}

// OpenImage reads all headers of the image at offset of f.
func OpenImage(f *directio.File, offset int64) (*mappedram.Image, error) {
	device, err := directio.IsDevice(f.File)
	if err != nil {
		return nil, err
	}
	size, err := directio.Size(f.File)
	if err != nil {
		return nil, err
	}
	if device {
		return mappedram.OpenOnDevice(f, size, offset)
	}
	return mappedram.OpenAt(f, size, offset)
}
