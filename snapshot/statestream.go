// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// stateStream is a small mapped-ram stream made from an image, in memory: all the device state, and of the RAM
// only the blocks that get into the VM by no other way. The others' bitmaps are empty, and QEMU leaves
// their memory as it finds it (read_ramblock_mapped_ram).
type stateStream struct {
	file       *os.File // open for reading only, as QEMU asks of a descriptor set
	wasRunning bool
}

func newStateStream(image *openedImage, outside map[string]bool) (*stateStream, error) {
	sections, err := image.DeviceSections()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("ramjet-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory for the state stream: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state stream")
	defer f.Close()
	if err := writeStateStream(f, image, sections, outside); err != nil {
		return nil, fmt.Errorf("cannot make the state stream: %w", err)
	}
	r, err := directio.Reopen{File: f}.Open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &stateStream{file: r, wasRunning: wasRunning(sections)}, nil
}

func writeStateStream(f *os.File, image *openedImage, sections []byte, outside map[string]bool) error {
	blocks := make([]mappedram.Block, len(image.Blocks))
	for i, b := range image.Blocks {
		blocks[i] = mappedram.Block{Name: b.Name, Length: b.Length}
	}
	layout, err := mappedram.NewLayout(0, image.Config, blocks)
	if err != nil {
		return err
	}
	if err := layout.WriteHeaders(f); err != nil {
		return err
	}
	for i, b := range image.Blocks {
		if outside[b.Name] {
			continue
		}
		if err := copyBlock(f, layout.Blocks[i].PagesOffset, image, i); err != nil {
			return err
		}
		stored, err := image.Bitmap(i)
		if err != nil {
			return err
		}
		if err := layout.WriteBitmap(f, i, stored); err != nil {
			return err
		}
	}
	if _, err := layout.WriteTail(f, sections, nil); err != nil {
		return err
	}
	return layout.Publish(f)
}

// copyBlock copies a block's stored pages, and checks them if the image is sealed.
func copyBlock(to *os.File, at int64, image *openedImage, i int) error {
	stored, err := image.Bitmap(i)
	if err != nil {
		return err
	}
	b := image.Blocks[i]
	check := &pageCheck{image: image.Image, bad: refuseBad}
	part := check.add(i, 0, b.Pages(), 0, stored)
	buf := make([]byte, 1<<20)
	for first, end := range stored.Runs(b.Pages()) {
		for off := first * b.PageSize; off < end*b.PageSize; {
			p := buf[:min(int64(len(buf)), end*b.PageSize-off)]
			if _, err := image.file.ReadAt(p, b.PagesOffset+off); err != nil {
				return fmt.Errorf("block %s: %w", b.Name, err)
			}
			if image.Seal != nil {
				if err := check.check(part.Index, off/b.PageSize, p); err != nil {
					return err
				}
			}
			if _, err := to.WriteAt(p, at+off); err != nil {
				return err
			}
			off += int64(len(p))
		}
	}
	return nil
}
