// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// native is a save by Ramjet's own engine: it reads the VM's memory from outside.
type native struct {
	*save
	blocks   []qemu.RAMBlock
	memory   []guestmem.Memory
	layout   *mappedram.Layout
	bases    []*transfer.Base // nil for a block that is saved whole
	verified bool             // the base's seal was read
	engine   *transfer.Save   // nil until the first pages are saved
	sections []byte
}

func (s *save) native(ctx context.Context) (id seal.ID, err error) {
	n := &native{save: s}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.open(ctx, s.vm.Blocks); err != nil {
		return id, err
	}
	set, err := s.vm.FreeSet(ctx)
	if err == nil {
		err = s.pause.Sets(set)
	}
	if err != nil {
		return id, err
	}
	state, err := s.vm.NewStateFileIn(ctx, set)
	if err != nil {
		return id, err
	}
	closeState := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), qemu.CleanupTimeout)
		defer cancel()
		return state.Close(ctx, s.vm)
	}
	err = n.newEngine()
	if err == nil && n.Live {
		err = n.live(ctx)
	}
	if err == nil {
		err = n.paused(ctx, state)
	}
	if err := errors.Join(err, closeState(), s.pause.Sets()); err != nil {
		return id, err
	}
	return n.complete()
}

// open gets at the memory of blocks and lays the image out for them. What was saved of others before is forgotten.
func (n *native) open(ctx context.Context, blocks []qemu.RAMBlock) (err error) {
	if err := n.Close(); err != nil {
		return err
	}
	n.blocks = blocks
	n.findPlugged(ctx)
	var laid []mappedram.Block
	for _, b := range blocks {
		m, err := n.vm.OpenMemory(b, guestmem.Read)
		if err != nil {
			return err
		}
		n.memory = append(n.memory, m)
		laid = append(laid, mappedram.Block{Name: b.Name, Length: b.Used})
	}
	config := vmstate.Config{MachineType: n.vm.MachineType, Capabilities: []string{"mapped-ram"}}
	if n.layout, err = mappedram.NewLayout(0, config, laid); err != nil {
		return err
	}
	return n.findBases(ctx)
}

// paused is what happens while the guest stands still.
func (n *native) paused(ctx context.Context, state *qemu.StateFile) (err error) {
	ctx, err = n.pause.Hold(ctx)
	if err != nil {
		return err
	}
	// Firmware may have resized a ROM, and somebody plugged memory, since we looked.
	blocks, err := qemu.QueryRAMBlocks(ctx, n.vm.QMP)
	if err != nil {
		return err
	}
	if !slices.Equal(blocks, n.blocks) {
		if err := n.open(ctx, blocks); err != nil {
			return err
		}
	}
	confined := n.confineFiles()
	n.Progress.SetPhase("saving device state")
	stated := image.Lap(&n.result.Times.DeviceState)
	n.sections, err = n.vm.DeviceSections(ctx, state, n.pause.ImageState())
	stated()
	confined()
	if err != nil {
		return err
	}
	n.Progress.SetPhase("saving memory")
	if err := n.savePages(ctx); err != nil {
		return err
	}
	n.lookAtDisks()
	if err := n.pause.Check(ctx); err != nil || !n.resumes() {
		return err
	}
	return n.pause.End(ThenResume)
}

// savePages writes all that is not in the image yet.
func (n *native) savePages(ctx context.Context) error {
	if n.engine == nil {
		if err := n.newEngine(); err != nil {
			return err
		}
	}
	defer image.Lap(&n.result.Times.Memory)()
	defer n.Progress.Follow(&n.engine.Progress)()
	// Memory that is in a file stays readable when its QEMU has ended, and nobody would notice for long.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-n.vm.QMP.Done():
			cancel(qmp.ErrClosed)
		case <-ctx.Done():
		}
	}()
	return n.engine.Run(ctx)
}

func (n *native) newEngine() error {
	st, err := n.target.File.Stat()
	if err == nil && st.Size() != 0 {
		// What was written into it for other blocks. Not for an empty file: ext4 takes that for somebody who replaces what was
		// there, and writes all of it back when a descriptor is closed, which would be in the pause (ext4_release_file).
		err = n.target.File.Truncate(0)
	}
	if err == nil {
		// A direct write that extends a file is done one at a time (ext4_dio_write_checks), so the file has its length first.
		err = n.target.File.Truncate(n.layout.RAMEnd)
	}
	if errors.Is(err, unix.EFBIG) {
		err = fmt.Errorf("%w: the file system or a limit (ulimit -f) allows none of that size", err)
	}
	if err != nil {
		return err
	}
	f, err := n.takeScratch()
	if err != nil {
		return err
	}
	n.engine = &transfer.Save{
		Layout: n.layout,
		Memory: n.memory,
		Base:   n.bases,
		Image:  n.target,
		Params: transfer.Params{Channels: n.Channels, Direct: n.io.Direct, MaxBandwidth: n.MaxBandwidth, Small: 64 << 10},
		Sums:   transfer.NewSums(f, n.layout.Blocks),
		Live:   n.Live,
	}
	return n.engine.Reserve(n.target.File)
}

// complete writes all but the pages, when the guest runs again.
func (n *native) complete() (id seal.ID, err error) {
	defer image.Lap(&n.result.Times.Complete)()
	n.divide()
	w := image.Writer{To: n.target.File, Layout: n.layout, Stored: n.engine.Stored, Sums: n.engine.Sums, Sections: n.sections}
	if id, err = w.Sealed(n.sealMetadata()); err != nil {
		return id, err
	}
	n.result.SaveSeconds = time.Since(n.Began).Seconds()
	return id, n.engine.Release(n.target.File)
}

// divide says what the channels did of the time for memory.
func (n *native) divide() {
	channels, p := float64(n.result.Channels), &n.engine.Progress
	n.result.Times.Scan = time.Duration(p.Scanning.Load()).Seconds() / channels
	n.result.Times.Write = time.Duration(p.Writing.Load()).Seconds() / channels
}

// sealMetadata is what the seal says of the VM and of the memory that was saved.
func (n *native) sealMetadata() *seal.Metadata {
	m := n.metadata()
	m.Format = "ramjet"
	m.Blocks = image.Blocks(n.layout.Blocks, n.engine.Stored)
	for i := range m.Blocks {
		m.Blocks[i].Whole = n.base != nil && n.bases[i] == nil
	}
	var err error
	if m.Hot, err = n.findHot(); err != nil {
		n.log("not recorded what the VM needed last: %v", err)
	}
	n.count(m.Blocks)
	if n.base != nil {
		m.Base = &seal.Base{ID: n.base.Seal.ID, Path: n.base.Path}
		zero := n.engine.Holes()
		n.result.PagesZero, n.result.PagesStored = zero, n.result.PagesStored-zero
		n.result.BytesStored -= zero * mappedram.PageSize
	}
	return m
}

// Close gives up what open and newEngine made.
func (n *native) Close() error {
	var err error
	for _, m := range n.memory {
		err = errors.Join(err, m.Close())
	}
	if n.engine != nil {
		err = errors.Join(err, n.engine.Sums.Close())
	}
	n.memory, n.engine = nil, nil
	return err
}
