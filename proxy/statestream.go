// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// stateStream makes the stream that QEMU loads: device state, and the pages of small blocks. It is in memory.
func (in *incoming) stateStream() (*os.File, error) {
	fd, err := unix.MemfdCreate("ramjet-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory for the state stream: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state stream")
	defer f.Close()
	if err := in.writeStream(f); err != nil {
		return nil, err
	}
	// QEMU takes a descriptor that is open for reading only.
	return directio.Reopen{File: f}.Open(os.O_RDONLY)
}

func (in *incoming) writeStream(f *os.File) error {
	from := in.file.Image
	sections, err := from.DeviceSections()
	if err != nil {
		return err
	}
	if err := vmstate.CheckRunState(sections); err != nil {
		return err // QEMU would abort
	}
	description, err := from.Description()
	if err != nil {
		return err
	}
	blocks := make([]mappedram.Block, len(from.Blocks))
	for i, b := range from.Blocks {
		blocks[i] = mappedram.Block{Name: b.Name, Length: b.Length}
	}
	layout, err := mappedram.Like(from.Layout, blocks)
	if err != nil {
		return err
	}
	w := image.Writer{To: f, Layout: layout, Stored: make([]mappedram.Bitmap, len(blocks)), Sections: sections, Description: description}
	for i, b := range from.Blocks {
		if !streamed(b) {
			continue
		}
		if w.Stored[i], err = in.copyBlock(f, layout, i); err != nil {
			return fmt.Errorf("block %s: %w", b.Name, err)
		}
	}
	return w.Unsealed()
}

// copyBlock copies a small block's stored pages, and returns their bitmap.
func (in *incoming) copyBlock(f *os.File, layout *mappedram.Layout, i int) (mappedram.Bitmap, error) {
	from, to := in.file.Image.Blocks[i], layout.Blocks[i]
	stored, err := in.file.Image.Bitmap(i)
	if err != nil {
		return nil, err
	}
	for first, end := range stored.Runs(from.Pages()) {
		buf := make([]byte, (end-first)*from.PageSize) // maxStreamedBlock at most
		at := first * from.PageSize
		_, err := in.file.Opened.Main.ReadAt(buf, from.PagesOffset+at)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the image ends within its pages at %d: %w", from.PagesOffset+at, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return nil, err
		}
		if _, err := f.WriteAt(buf, to.PagesOffset+at); err != nil {
			return nil, err
		}
	}
	return stored, nil
}
