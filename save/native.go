// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
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

// native is the copier that is Ramjet's own engine: it reads the VM's memory from outside.
type native struct {
	j        *job
	way      way
	blocks   []qemu.RAMBlock
	plugged  json.RawMessage   // where plugged memory is, as the seal says it
	memory   []guestmem.Memory // of blocks
	layout   *mappedram.Layout
	pages    *transfer.Save  // writes memory's pages
	state    *qemu.StateFile // gets the device state
	sections []byte          // the device state
	times    Times
}

// A way is how the image gets the pages that memory has at one moment, the pause, although the guest writes to memory before and after
// it. newNative chooses the way, and nothing else of a save depends on which it is.
type way interface {
	// beforePause does what can be done while the guest runs.
	beforePause(ctx context.Context) error
	// inPause is called when the guest stands still and its device state is saved. The guest may go on when it returns.
	inPause(ctx context.Context) error
	// report adds what is known of the way to what is known of the image.
	report(c *copied)
}

// stopped is the plain way: the guest stands still until all pages are written.
type stopped struct{ n *native }

func (stopped) beforePause(context.Context) error   { return nil }
func (s stopped) inPause(ctx context.Context) error { return s.n.writePages(ctx) }
func (stopped) report(*copied)                      {}

func newNative(j *job) *native {
	n := &native{j: j}
	if n.way = (stopped{n}); j.o.Live {
		n.way = &live{n: n}
	}
	return n
}

// prepare opens memory, passes a file for the device state to QEMU, and begins with what the way does early.
func (n *native) prepare(ctx context.Context) error {
	if err := n.open(ctx, n.j.vm.Blocks); err != nil {
		return err
	}
	set, err := n.j.vm.FreeSet(ctx)
	if err == nil {
		err = n.j.pause.Sets(set)
	}
	if err != nil {
		return err
	}
	if n.state, err = n.j.vm.NewStateFileIn(ctx, set); err != nil {
		return err
	}
	return n.way.beforePause(ctx)
}

// open opens the memory of blocks and lays the image out for them. Nothing stays of what was written for other blocks.
func (n *native) open(ctx context.Context, blocks []qemu.RAMBlock) (err error) {
	if err := n.close(); err != nil {
		return err
	}
	n.blocks, n.plugged = blocks, pluggedMemory(ctx, n.j.vm, n.j.log)
	var laid []mappedram.Block
	for _, b := range blocks {
		m, err := n.j.vm.OpenMemory(b, guestmem.Read)
		if err != nil {
			return err
		}
		n.memory = append(n.memory, m)
		laid = append(laid, mappedram.Block{Name: b.Name, Length: b.Used})
	}
	config := vmstate.Config{MachineType: n.j.vm.MachineType, Capabilities: []string{"mapped-ram"}}
	if n.layout, err = mappedram.NewLayout(0, config, laid); err != nil {
		return err
	}
	bases, err := n.j.base.blocks(ctx, n.j.vm, n.layout, n.memory)
	if err != nil {
		return err
	}
	params := transfer.Params{Calls: n.j.o.Calls, Channels: n.j.o.Channels, Direct: n.j.io.Direct, MaxBandwidth: n.j.o.MaxBandwidth}
	if n.pages, err = newPages(n.j.target, filepath.Dir(n.j.o.Image), n.layout, n.memory, params); err != nil {
		return err
	}
	n.pages.Base, n.pages.Live = bases, n.j.o.Live
	return nil
}

// newPages makes the unfinished file, in the directory dir, as long as the layout needs it, and returns what writes memory's pages into
// it. The caller closes its Sums.
func newPages(t *image.Target, dir string, l *mappedram.Layout, memory []guestmem.Memory, p transfer.Params) (*transfer.Save, error) {
	st, err := t.File.Stat()
	if err == nil && st.Size() != 0 {
		// What was written into it for other blocks. Not for an empty file: ext4 takes that for somebody who replaces what was
		// there, and writes all of it back when a descriptor is closed, which would be in the pause (ext4_release_file).
		err = t.File.Truncate(0)
	}
	if err == nil {
		// A direct write that extends a file is done one at a time (ext4_dio_write_checks), so the file has its length first.
		err = t.File.Truncate(l.RAMEnd)
	}
	if errors.Is(err, unix.EFBIG) {
		err = fmt.Errorf("%w: the file system or a limit (ulimit -f) allows none of that size", err)
	}
	if err != nil {
		return nil, err
	}
	sums, err := image.Scratch(dir, p.Calls)
	if err != nil {
		return nil, err
	}
	p.BufferedBelow = 64 << 10
	s := &transfer.Save{Layout: l, Memory: memory, Image: t, Params: p, Sums: transfer.NewSums(sums, l.Blocks, p.Calls)}
	if err := s.Reserve(t.File); err != nil {
		return nil, errors.Join(err, s.Sums.Close())
	}
	return s, nil
}

func (n *native) hold(ctx context.Context) (context.Context, error) { return n.j.pause.Hold(ctx) }

// copy is the part of the save in which the guest stands still.
func (n *native) copy(ctx context.Context) error {
	// Firmware may have resized a ROM, and somebody plugged memory, since the blocks were opened.
	blocks, err := qemu.QueryRAMBlocks(ctx, n.j.vm.QMP)
	if err != nil {
		return err
	}
	if !slices.Equal(blocks, n.blocks) {
		if err := n.open(ctx, blocks); err != nil {
			return err
		}
	}
	confined := n.j.confiner.opened(n.memory)
	n.j.o.Progress.SetPhase("saving device state")
	stop := image.Lap(&n.times.DeviceState)
	n.sections, err = n.j.vm.DeviceSections(ctx, n.state, n.j.pause.ImageState())
	stop()
	confined()
	if err != nil {
		return err
	}
	n.j.o.Progress.SetPhase("saving memory")
	return n.way.inPause(ctx)
}

// writePages writes the pages that the image does not have as they are in memory now.
func (n *native) writePages(ctx context.Context) error {
	defer image.Lap(&n.times.Memory)()
	defer n.j.o.Progress.Follow(&n.pages.Progress)()
	// Memory that is in a file stays readable when its QEMU has ended, and nobody would notice for long.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-n.j.vm.QMP.Done():
			cancel(qmp.ErrClosed)
		case <-ctx.Done():
		}
	}()
	return n.pages.Run(ctx)
}

func (n *native) release() error {
	if n.state == nil {
		return nil
	}
	ctx, cancel := cleanupContext()
	defer cancel()
	return errors.Join(n.state.Close(ctx, n.j.vm), n.j.pause.Sets())
}

// complete writes all but the pages, when the guest runs again.
func (n *native) complete(_ context.Context, m *seal.Metadata) (*copied, error) {
	n.describe(m)
	w := image.Writer{To: n.j.target.File, Layout: n.layout, Stored: n.pages.Stored, Sums: n.pages.Sums, Sections: n.sections}
	id, err := w.Sealed(m)
	if err != nil {
		return nil, err
	}
	c := &copied{id: id, written: time.Now(), io: n.j.io.String(), ioWhy: n.j.io.Why, channels: n.j.channels(), times: n.times}
	if n.j.base != nil {
		c.holes = n.pages.Holes()
	}
	p, channels := &n.pages.Progress, float64(c.channels)
	c.times.Scan = time.Duration(p.Scanning.Load()).Seconds() / channels
	c.times.Write = time.Duration(p.Writing.Load()).Seconds() / channels
	n.way.report(c)
	return c, n.pages.Release(n.j.target.File)
}

// describe has the metadata say what memory is in the image.
func (n *native) describe(m *seal.Metadata) {
	m.Format, m.MemoryDevices = "ramjet", n.plugged
	m.Blocks = image.Blocks(n.layout.Blocks, n.pages.Stored)
	if n.j.base != nil {
		m.Base = &seal.Base{ID: n.j.base.file.Seal.ID, Path: n.j.base.file.Path}
		for i := range m.Blocks {
			m.Blocks[i].Whole = n.pages.Base[i] == nil
		}
	}
	var err error
	if m.Hot, err = hotPages(n.memory, n.layout.Blocks); err != nil {
		n.j.log("not recorded what the VM needed last: %v", err)
	}
}

// close gives up what open made.
func (n *native) close() error {
	var err error
	for _, m := range n.memory {
		err = errors.Join(err, m.Close())
	}
	if n.pages != nil {
		err = errors.Join(err, n.pages.Sums.Close())
	}
	n.memory, n.pages = nil, nil
	return err
}
