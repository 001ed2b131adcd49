// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// incoming is a migration from a mapped-ram file into a QEMU that waits for one. The large blocks' pages are put into its
// memory from here. Then QEMU loads a stream from memory, in which those blocks' bitmaps are empty: it leaves what
// has no bit as it finds it (read_ramblock_mapped_ram). So no error of the disk reaches QEMU, which would crash or hang.
//
// While the pages are loaded the command has not been answered, as QEMU answers nothing while it loads. Whatever fails
// until then is the command's error, and QEMU still waits.
type incoming struct {
	*Proxy
	settings monitor.Settings
	image    *mappedram.Image
	opener   directio.Opener
	blocks   map[string]qemu.RAMBlock // QEMU's
}

// settled is the length, in bytes, up to which blocks go into the stream: ROMs and tables that QEMU has filled itself.
const settled = 8 << 20

func (p *Proxy) migrateIncoming(ctx context.Context, r *qmp.Request) (any, error) {
	var args monitor.IncomingArgs
	if err := r.Args(&args); err != nil {
		return p.forward(ctx, r)
	}
	a, err := monitor.Target{URI: args.URI, Channels: args.Channels}.Address(true)
	if err != nil {
		return nil, err
	}
	s, err := p.settings(ctx)
	if err != nil {
		return nil, err
	}
	waits, err := p.waits(ctx)
	if err != nil {
		return nil, err
	}
	if a.Transport != "file" || !s.MappedRAM || s.IgnoreShared || !waits {
		p.mu.Lock()
		p.ours = false
		p.mu.Unlock()
		answer, err := p.forward(ctx, r)
		if err == nil {
			go p.follow(monitor.Report{Incoming: true, Engine: "qemu", Why: "it is not one from a mapped-ram file without x-ignore-shared", File: a.File()})
		}
		return answer, err
	}
	if err := p.takeSet(ctx, a.Path); err != nil {
		return nil, err
	}
	defer p.sets.Close()
	in := &incoming{Proxy: p, settings: s}
	began := time.Now()
	err = in.load(ctx, r, a, args.ExitOnError)
	if p.log != nil {
		p.log(monitor.Report{Incoming: true, Engine: "ramjet", Why: "it comes from a mapped-ram file", File: a.File(), Took: time.Since(began), Err: err})
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.ours = false
	p.mu.Unlock()
	return nil, nil
}

// waits tells whether QEMU waits for an incoming migration that has not begun.
func (p *Proxy) waits(ctx context.Context) (bool, error) {
	status, err := p.vm.Status(ctx)
	if err != nil || status != "inmigrate" {
		return false, err
	}
	var m struct{ Status string }
	err = p.vm.Monitor.Execute(ctx, "query-migrate", nil, &m)
	return m.Status == "" || m.Status == "none", err
}

func (in *incoming) load(ctx context.Context, r *qmp.Request, a monitor.Address, exitOnError *bool) error {
	need := fdset.Need{Channels: in.settings.PageChannels(), Direct: in.settings.Direct()}
	opened, err := in.out.Files.Open(a, need)
	if err != nil {
		return err
	}
	defer opened.Close()
	main := opened.Main
	in.opener = opened.Pages
	if err := in.open(ctx, main, a); err != nil {
		return err
	}
	if err := in.pages(ctx); err != nil {
		return err
	}
	stream, err := in.stream(main)
	if err != nil {
		return err
	}
	defer stream.Close()
	return in.hand(ctx, r, stream, exitOnError)
}

// open reads the image's headers and compares its memory with QEMU's.
func (in *incoming) open(ctx context.Context, main *os.File, a monitor.Address) error {
	if a.Offset > math.MaxInt64 {
		return fmt.Errorf("there is nothing at offset %d", a.Offset)
	}
	image, err := monitor.OpenImage(&directio.File{File: main}, int64(a.Offset))
	if err != nil {
		return err
	}
	in.image = image
	if t := in.image.Config.MachineType; t != in.vm.MachineType {
		return qmp.Errorf("Machine type received is '%s' and local is '%s'", t, in.vm.MachineType)
	}
	blocks, err := qemu.QueryRAMBlocks(ctx, in.vm.Monitor)
	if err != nil {
		return err
	}
	in.blocks = map[string]qemu.RAMBlock{}
	for _, b := range blocks {
		in.blocks[b.Name] = b
	}
	for _, b := range in.image.Blocks {
		have, ok := in.blocks[b.Name]
		switch {
		case !ok:
			return qmp.Errorf("Unknown ramblock \"%s\", cannot accept migration", b.Name)
		case have.Used != b.Length && b.Length > settled:
			return qmp.Errorf("the memory \"%s\" has %d bytes in the image and %d here: QEMU must be started as the saved one was (-m)",
				b.Name, b.Length, have.Used)
		}
	}
	return nil
}

// outside tells whether a block's pages do not go through the stream.
func outside(b mappedram.Block) bool { return b.Length > settled && !b.Ignored }

// pages puts the large blocks into QEMU's memory.
func (in *incoming) pages(ctx context.Context) (err error) {
	in.mu.Lock()
	again := in.filled
	in.filled = true
	in.mu.Unlock()
	load := &transfer.Load{
		Image:  in.opener,
		Params: transfer.Params{Channels: max(in.settings.PageChannels(), 1), Direct: in.settings.Direct()},
	}
	defer func() {
		for _, b := range load.Blocks {
			err = errors.Join(err, b.Memory.Close())
		}
	}()
	for i, b := range in.image.Blocks {
		if !outside(b) {
			continue
		}
		stored, err := in.image.Bitmap(i)
		if err != nil {
			return err
		}
		m, err := in.vm.OpenMemory(in.blocks[b.Name], guestmem.ReadWrite)
		if err != nil {
			return err
		}
		load.Blocks = append(load.Blocks, transfer.LoadBlock{Block: b, Index: i, Stored: stored, Memory: m, Clear: again})
	}
	return load.Run(ctx)
}

// stream makes what QEMU loads, in memory.
func (in *incoming) stream(main *os.File) (*os.File, error) {
	fd, err := unix.MemfdCreate("ramjet-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory for the state stream: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state stream")
	defer f.Close()
	if err := in.writeStream(f, main); err != nil {
		return nil, err
	}
	// QEMU takes a descriptor that is open for reading only.
	return directio.Reopen{File: f}.Open(os.O_RDONLY)
}

func (in *incoming) writeStream(f, main *os.File) error {
	sections, err := in.image.DeviceSections()
	if err != nil {
		return err
	}
	if err := vmstate.CheckRunState(sections); err != nil {
		return err // QEMU would abort
	}
	description, err := in.image.Description()
	if err != nil {
		return err
	}
	blocks := make([]mappedram.Block, len(in.image.Blocks))
	for i, b := range in.image.Blocks {
		blocks[i] = mappedram.Block{Name: b.Name, Length: b.Length}
	}
	layout, err := mappedram.Like(in.image.Layout, blocks)
	if err != nil {
		return err
	}
	w := image.Writer{To: f, Layout: layout, Stored: make([]mappedram.Bitmap, len(blocks)), Sections: sections, Description: description}
	for i, b := range in.image.Blocks {
		if outside(b) {
			continue
		}
		if w.Stored[i], err = in.copyBlock(f, main, layout, i); err != nil {
			return fmt.Errorf("block %s: %w", b.Name, err)
		}
	}
	return w.Unsealed()
}

// copyBlock copies a small block's stored pages, and says which they are.
func (in *incoming) copyBlock(f, main *os.File, layout *mappedram.Layout, i int) (mappedram.Bitmap, error) {
	from, to := in.image.Blocks[i], layout.Blocks[i]
	stored, err := in.image.Bitmap(i)
	if err != nil {
		return nil, err
	}
	for first, end := range stored.Runs(from.Pages()) {
		buf := make([]byte, (end-first)*from.PageSize) // settled at most
		at := first * from.PageSize
		_, err := main.ReadAt(buf, from.PagesOffset+at)
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

// hand has QEMU load the stream. Direct I/O, which memory does not know, is switched off for as long.
func (in *incoming) hand(ctx context.Context, r *qmp.Request, stream *os.File, exitOnError *bool) (err error) {
	set, err := in.vm.PassFiles(ctx, "ramjet state stream", stream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alive(in.vm.Monitor.RemoveFDSet(ctx, set))) }()
	if in.settings.DirectIO {
		if err := in.setDirect(ctx, false); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, alive(in.setDirect(ctx, true))) }()
	}
	args := map[string]any{"uri": fmt.Sprintf("file:%s%d", fdset.Prefix, set)}
	if exitOnError != nil {
		args["exit-on-error"] = *exitOnError
	}
	return in.vm.Monitor.ExecuteFor(ctx, r, "migrate-incoming", args, nil)
}

// alive forgives that QEMU has ended, as it does when a load fails unless it was told not to.
func alive(err error) error {
	if errors.Is(err, qmp.ErrClosed) {
		return nil
	}
	return err
}

func (in *incoming) setDirect(ctx context.Context, on bool) error {
	return in.vm.Monitor.Execute(ctx, "migrate-set-parameters", map[string]bool{"direct-io": on}, nil)
}
