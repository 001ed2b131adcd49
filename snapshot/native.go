// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// native is a save by Ramjet's own engine: it reads the VM's memory from outside.
type native struct {
	*save
	blocks   []qemu.RAMBlock
	memory   []guestmem.Memory
	layout   *mappedram.Layout
	sums     *migration.Sums
	stored   []mappedram.Bitmap
	sections []byte
}

func (s *save) native(ctx context.Context) (id seal.ID, err error) {
	n := &native{save: s}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.open(s.vm.Blocks); err != nil {
		return id, err
	}
	state, err := s.vm.NewStateFile(ctx)
	if err != nil {
		return id, err
	}
	closeState := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), mercy)
		defer cancel()
		return state.Close(ctx, s.vm)
	}
	err = s.pause.order(state.Set())
	if err == nil {
		err = n.paused(ctx, state)
	}
	if err := errors.Join(err, closeState(), s.pause.order()); err != nil {
		return id, err
	}
	return n.complete()
}

// open gets at the memory of blocks and lays the image out for them.
func (n *native) open(blocks []qemu.RAMBlock) (err error) {
	n.closeMemory()
	n.blocks = blocks
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
	n.layout, err = mappedram.NewLayout(0, config, laid)
	return err
}

// paused is what happens while the guest stands still.
func (n *native) paused(ctx context.Context, state *qemu.StateFile) (err error) {
	if err := n.pause.begin(ctx); err != nil {
		return err
	}
	// Firmware may have resized a ROM, and somebody plugged memory, since we looked.
	blocks, err := qemu.QueryRAMBlocks(ctx, n.vm.Monitor)
	if err != nil {
		return err
	}
	if !slices.Equal(blocks, n.blocks) {
		if err := n.open(blocks); err != nil {
			return err
		}
	}
	n.Progress.phase("saving device state")
	if n.sections, err = n.vm.DeviceSections(ctx, state, n.pause.was); err != nil {
		return err
	}
	n.Progress.phase("saving memory")
	if err := n.savePages(ctx); err != nil {
		return err
	}
	if n.Then == ThenResume || n.Then == "" {
		return n.pause.end(ThenResume)
	}
	return nil
}

func (n *native) savePages(ctx context.Context) error {
	// A direct write that extends a file is done one at a time (ext4_dio_write_checks), so the file has its length first.
	if err := n.target.file.Truncate(n.layout.RAMEnd); err != nil {
		return err
	}
	f, err := scratch(filepath.Dir(n.Image))
	if err != nil {
		return err
	}
	n.sums = migration.NewSums(f, n.layout.Blocks)
	e := &migration.Save{
		Layout: n.layout,
		Memory: n.memory,
		Image:  n.target,
		Params: migration.Params{Channels: n.Channels, Direct: n.io.Direct, MaxBandwidth: n.MaxBandwidth},
		Sums:   n.sums,
	}
	stop := n.Progress.follow(&e.Progress)
	err = e.Run(ctx)
	stop()
	n.stored = e.Stored
	return err
}

// complete writes all but the pages, when the guest runs again.
func (n *native) complete() (id seal.ID, err error) {
	w := n.target.file
	if err := n.layout.WriteHeaders(w); err != nil {
		return id, err
	}
	for i, b := range n.stored {
		if err := n.layout.WriteBitmap(w, i, b); err != nil {
			return id, err
		}
	}
	end, err := n.layout.WriteTail(w, n.sections, nil)
	if err != nil {
		return id, err
	}
	if err := n.layout.Publish(w); err != nil {
		return id, err
	}
	if id, err = n.seal(end); err != nil {
		return id, err
	}
	n.result.SaveSeconds = time.Since(n.began).Seconds()
	return id, nil
}

// seal adds metadata and page sums behind the stream, which ends at end.
func (n *native) seal(end int64) (id seal.ID, err error) {
	m := n.metadata()
	m.Format = "ramjet"
	bitmap := func(i int) (mappedram.Bitmap, error) { return n.stored[i], nil }
	if m.StreamHash, err = n.layout.StreamHash(bitmap, n.sections, nil); err != nil {
		return id, err
	}
	for i, b := range n.layout.Blocks {
		count := n.stored[i].Count()
		m.Blocks = append(m.Blocks, seal.Block{Name: b.Name, Length: b.Length, PageSize: b.PageSize, PagesStored: count})
	}
	n.count(m.Blocks)
	return writeSeal(n.target.file, end, m, n.stored, n.sums)
}

func (n *native) closeMemory() error {
	var err error
	for _, m := range n.memory {
		err = errors.Join(err, m.Close())
	}
	n.memory = nil
	return err
}

func (n *native) close() error {
	err := n.closeMemory()
	if n.sums != nil {
		err = errors.Join(err, n.sums.Close())
	}
	return err
}
