// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Contents are what an image is made of that is no running VM's: an import, or memory of the calling program.
type Contents struct {
	Layout      *mappedram.Layout
	Memory      []guestmem.Memory // of each block of the layout
	Sections    []byte            // device state, as vmstate.DeviceSections gives it
	Description []byte            // of the device state, in JSON; nil: none
	Metadata    *seal.Metadata    // for the seal; Blocks and StreamHash are filled in
}

// MakeOptions are what Make can be told. Path is required.
type MakeOptions struct {
	Path     string
	Force    bool // replace an existing image
	Channels int  // 1 to 255; 0: chosen
	Direct   directio.Mode
	Progress *Progress
}

// Made describes an image that Make made.
type Made struct {
	ID                      seal.ID
	PagesTotal, PagesStored int64
}

// Make makes a sealed image. Nothing is at o.Path unless all of it is, durably.
func Make(ctx context.Context, o MakeOptions, c *Contents) (*Made, error) {
	target, err := NewTarget(o.Path, o.Force, nil)
	if err != nil {
		return nil, err
	}
	defer target.Discard()
	if err := target.File.Truncate(c.Layout.RAMEnd); err != nil {
		return nil, err
	}
	pages := &transfer.Save{Layout: c.Layout, Memory: c.Memory, Image: target}
	if pages.Sums, err = scratchSums(o.Path, c.Layout); err != nil {
		return nil, err
	}
	defer pages.Sums.Close()
	if err := o.copyPages(ctx, pages, target); err != nil {
		return nil, err
	}
	c.Metadata.Blocks = Blocks(c.Layout.Blocks, pages.Stored)
	w := Writer{
		To: target.File, Layout: c.Layout, Stored: pages.Stored, Sums: pages.Sums,
		Sections: c.Sections, Description: c.Description,
	}
	made := &Made{PagesStored: c.Metadata.TotalStored()}
	for _, b := range c.Layout.Blocks {
		made.PagesTotal += b.Pages()
	}
	if made.ID, err = w.Sealed(c.Metadata); err != nil {
		return nil, err
	}
	if _, err := target.Publish(false); err != nil {
		return nil, err
	}
	return made, nil
}

// copyPages copies the pages into the target.
func (o *MakeOptions) copyPages(ctx context.Context, pages *transfer.Save, target *Target) error {
	io, err := directio.Chooser{Mode: o.Direct}.Choose(target, os.O_WRONLY)
	if err != nil {
		return err
	}
	pages.Params = transfer.Params{Channels: o.Channels, Direct: io.Direct}
	defer o.Progress.Follow(&pages.Progress)()
	if err := pages.Reserve(target.File); err != nil {
		return err
	}
	if err := pages.Run(ctx); err != nil {
		return err
	}
	return pages.Release(target.File)
}
