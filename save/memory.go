// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// MemoryBlock is a piece of memory that a program has as a file: a memfd, shared memory, a file of hugetlbfs.
type MemoryBlock struct {
	Name   string // in the image; different for each, 1 to 255 bytes
	File   *os.File
	Offset int64 // in the file; a multiple of 4096 as Length is
	Length int64
}

// MemoryOptions are what Memory can be told. Image and Blocks are required.
type MemoryOptions struct {
	Image    string
	Blocks   []MemoryBlock
	Force    bool // replace an existing image
	Channels int  // 1 to 255; 0: chosen
	Direct   directio.Mode
	Progress *image.Progress
}

// MemoryResult describes an image of memory.
type MemoryResult struct {
	Image       string
	ID          string
	PagesTotal  int64
	PagesStored int64
	BytesStored int64
	Seconds     float64
}

// Memory saves memory that the calling program owns, without any QEMU: for a VMM, a database, a test. The memory must
// not change meanwhile. The image is sealed, durable and whole when it is there, as those of Save are. Get the
// memory back with package mappedram, which says where in the file each block's pages are: to map them, or to have
// package transfer read them.
func Memory(ctx context.Context, o MemoryOptions) (*MemoryResult, error) {
	began := time.Now()
	if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	if len(o.Blocks) == 0 {
		return nil, errors.New("no blocks of memory: nothing to save")
	}
	c := &image.Contents{Metadata: &seal.Metadata{
		Created: began.UTC(), Format: "ramjet", RamjetVersion: image.VersionString(), MachineType: "none",
	}}
	defer func() {
		for _, m := range c.Memory {
			m.Close()
		}
	}()
	var laid []mappedram.Block
	for _, b := range o.Blocks {
		f, err := directio.Reopen{File: b.File}.Open(os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		m, err := guestmem.OpenFile(f, b.Offset, b.Length, nil)
		if err != nil {
			return nil, fmt.Errorf("block %s: %w", b.Name, err)
		}
		c.Memory = append(c.Memory, m)
		laid = append(laid, mappedram.Block{Name: b.Name, Length: b.Length})
	}
	var err error
	config := vmstate.Config{MachineType: c.Metadata.MachineType, Capabilities: []string{"mapped-ram"}}
	if c.Layout, err = mappedram.NewLayout(0, config, laid); err != nil {
		return nil, err
	}
	o.Progress.SetPhase("saving")
	made, err := image.Make(ctx, image.MakeOptions{
		Path: o.Image, Force: o.Force, Channels: o.Channels, Direct: o.Direct, Progress: o.Progress,
	}, c)
	if err != nil {
		return nil, err
	}
	return &MemoryResult{
		Image: o.Image, ID: made.ID.String(), PagesTotal: made.PagesTotal, PagesStored: made.PagesStored,
		BytesStored: made.PagesStored * mappedram.PageSize, Seconds: time.Since(began).Seconds(),
	}, nil
}
