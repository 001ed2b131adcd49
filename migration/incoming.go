// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"context"
	"fmt"
	"math"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Incoming is one migration from a file into a guest. Its methods may not be called at the same time. The order for a
// mapped-ram file is OpenImage, LoadPages, Close; for a plain stream LoadPlain, Close.
type Incoming struct {
	Address  Address
	Settings Settings
	Opened   *Opened
	Image    *mappedram.Image // the file's headers, from OpenImage on
}

// OpenIncoming opens the file of a migration into a guest, after a check of the whole descriptor set.
func (f Files) OpenIncoming(a Address, s Settings) (*Incoming, error) {
	opened, err := f.Open(a, s.Need(false))
	if err != nil {
		return nil, err
	}
	return &Incoming{Address: a, Settings: s, Opened: opened}, nil
}

// Close closes the file.
func (in *Incoming) Close() { in.Opened.Close() }

// OpenImage reads all headers of a mapped-ram file, of which the machine type has to be machine. Reads are at offsets,
// so that the position of the client's descriptor does not move.
func (in *Incoming) OpenImage(machine string) error {
	at, err := in.offset()
	if err != nil {
		return err
	}
	f, err := directio.NewFile(in.Opened.Main, nil)
	if err != nil {
		return err
	}
	device, err := directio.IsDevice(f.File)
	if err != nil {
		return err
	}
	size, err := directio.Size(f.File)
	if err != nil {
		return err
	}
	open := mappedram.OpenAt
	if device {
		open = mappedram.OpenOnDevice
	}
	image, err := open(f, size, at)
	if err != nil {
		return err
	}
	in.Image = image
	return checkMachine(image.Config.MachineType, machine)
}

// offset is where the stream begins.
func (in *Incoming) offset() (int64, error) {
	if in.Address.Offset > math.MaxInt64 {
		return 0, fmt.Errorf("there is nothing at offset %d", in.Address.Offset)
	}
	return int64(in.Address.Offset), nil
}

// LoadPages loads the pages of those blocks that view has too. With clear it zeroes the pages that the image does not
// store: an earlier load may have failed half way.
func (in *Incoming) LoadPages(ctx context.Context, view *View, clear bool) error {
	load := &transfer.Load{Image: in.Opened.Pages, Params: in.Settings.engine()}
	for i, b := range in.Image.Blocks {
		at := view.Find(b.Name)
		if at < 0 || b.Ignored {
			continue
		}
		stored, err := in.Image.Bitmap(i)
		if err != nil {
			return err
		}
		load.Blocks = append(load.Blocks, transfer.LoadBlock{Block: b, Index: i, Stored: stored, Memory: view.Memory[at], Clear: clear})
	}
	return load.Run(ctx)
}

// LoadPlain loads a plain stream into view's memory, zeroes all other pages, and returns the sections of devices. sizes
// has the length in bytes of the contents of each section that the guest knows: a plain stream does not say how long a
// section is.
func (in *Incoming) LoadPlain(ctx context.Context, view *View, sizes map[string]int) (sections []byte, err error) {
	at, err := in.offset()
	if err != nil {
		return nil, err
	}
	return loadPlain(ctx, in.Opened.Main, at, view, sizes)
}

// The errors of a load into a guest that differs from the saved one, with QEMU's texts.

// checkMachine compares machine types (configuration_post_load).
func checkMachine(received, local string) error {
	if received != local {
		return fmt.Errorf("Machine type received is '%s' and local is '%s'", received, local)
	}
	return nil
}

// UnknownSection is the error for a section of a device that the guest does not have (qemu_loadvm_section_start_full).
func UnknownSection(name string, instance uint32) error {
	return fmt.Errorf("Unknown section or instance '%s' %d. Make sure that your current VM setup matches your saved VM setup, "+
		"including any hotplugged devices", name, instance)
}

// UnknownBlock is the error for a memory block that the guest does not have (parse_ramblocks).
func UnknownBlock(name string) error {
	return fmt.Errorf("Unknown ramblock \"%s\", cannot accept migration", name)
}
