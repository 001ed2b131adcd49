// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"context"
	"errors"
	"slices"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// Guest is the guest of a migration to a file. Its methods are called one at a time.
type Guest interface {
	// Open gives access to the guest's memory as it is now. The guest may run.
	Open(ctx context.Context) (*View, error)
	// Current reports whether v still is all of the guest's memory.
	Current(ctx context.Context, v *View) (bool, error)
	// Running reports whether the guest runs.
	Running(ctx context.Context) (bool, error)
	// Stop stops the guest for the switchover, if it runs.
	Stop(ctx context.Context) error
	// State returns the sections of the devices of the stopped guest (vmstate.DeviceSections).
	State(ctx context.Context) ([]byte, error)
	// Still returns an error if the guest's memory may have changed since Stop, so that the file would be wrong.
	Still(ctx context.Context) error
	// Done is called when the file is complete: the guest stays stopped, as it has migrated.
	Done(ctx context.Context) error
	// Resume undoes Stop after a failure. It may be called without a Stop before.
	Resume(ctx context.Context) error
}

// View is access to a guest's memory.
type View struct {
	Machine string            // the machine type in the stream
	Blocks  []mappedram.Block // names and lengths, in the stream's order
	Memory  []guestmem.Memory // of each block
}

// Total is the length of all blocks in bytes.
func (v *View) Total() int64 {
	var n int64
	for _, b := range v.Blocks {
		n += b.Length
	}
	return n
}

// Find is the index of the block of that name, or -1.
func (v *View) Find(name string) int {
	return slices.IndexFunc(v.Blocks, func(b mappedram.Block) bool { return b.Name == name })
}

// Close closes the access to each block.
func (v *View) Close() error {
	var err error
	for _, m := range v.Memory {
		err = errors.Join(err, m.Close())
	}
	return err
}
