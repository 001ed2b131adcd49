// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
)

// migrateIncoming loads a mapped-ram file into a QEMU that waits for a migration, and forwards every other incoming
// migration.
func (p *Proxy) migrateIncoming(ctx context.Context, r *qmp.Request) (any, error) {
	var args migration.IncomingArgs
	if err := r.Args(&args); err != nil {
		return p.forward(ctx, r)
	}
	a, err := migration.Target{URI: args.URI, Channels: args.Channels}.Address(true)
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
		return p.byQEMU(ctx, r, migration.Report{Incoming: true, Why: "it is not one from a mapped-ram file without x-ignore-shared", File: a.File()})
	}
	if err := p.takeSet(ctx, a.Path); err != nil {
		return nil, err
	}
	defer p.sets.Close()
	began := time.Now()
	err = p.load(ctx, r, a, s, args.ExitOnError)
	if p.log != nil {
		p.log(migration.Report{Incoming: true, Engine: "ramjet", Why: "it comes from a mapped-ram file", File: a.File(), Took: time.Since(began), Err: err})
	}
	if err == nil {
		p.setLastIsOurs(false) // QEMU loads the stream
	}
	return nil, err
}

// waits reports whether QEMU waits for an incoming migration that has not begun.
func (p *Proxy) waits(ctx context.Context) (bool, error) {
	status, err := p.vm.Status(ctx)
	if err != nil || status != "inmigrate" {
		return false, err
	}
	var m struct{ Status string }
	err = p.vm.QMP.Execute(ctx, "query-migrate", nil, &m)
	return m.Status == "" || m.Status == "none", err
}

// incoming is a migration from a mapped-ram file into a QEMU that waits for one. The proxy writes the pages of large
// blocks into QEMU's memory. Then QEMU loads a stream from memory, in which the bitmaps of those blocks are empty: QEMU
// leaves a page that has no bit as it is (read_ramblock_mapped_ram). So no error of the disk reaches QEMU, which would
// crash or hang.
//
// The command is answered when all is loaded, as QEMU answers nothing while it loads. A failure before QEMU's load
// begins is the command's error, and QEMU still waits.
type incoming struct {
	p     *Proxy
	file  *migration.Incoming
	large []qemu.RAMBlock // those whose pages do not go through the stream
}

// load does one such migration.
func (p *Proxy) load(ctx context.Context, r *qmp.Request, a migration.Address, s migration.Settings, exitOnError *bool) error {
	file, err := p.out.Files.OpenIncoming(a, s)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.OpenImage(p.vm.MachineType); err != nil {
		return err
	}
	in := &incoming{p: p, file: file}
	if err := in.compareBlocks(ctx); err != nil {
		return err
	}
	if err := in.loadPages(ctx); err != nil {
		return err
	}
	stream, err := in.stateStream()
	if err != nil {
		return err
	}
	defer stream.Close()
	return in.loadStream(ctx, r, stream, exitOnError)
}

// maxStreamedBlock is the length, in bytes, up to which blocks go into the stream: ROMs and tables that QEMU has filled
// itself.
const maxStreamedBlock = 8 << 20

// streamed reports whether a block's pages go through the stream.
func streamed(b mappedram.Block) bool { return b.Length <= maxStreamedBlock || b.Ignored }

// compareBlocks compares the image's memory with QEMU's.
func (in *incoming) compareBlocks(ctx context.Context) error {
	blocks, err := qemu.QueryRAMBlocks(ctx, in.p.vm.QMP)
	if err != nil {
		return err
	}
	local := map[string]qemu.RAMBlock{}
	for _, b := range blocks {
		local[b.Name] = b
	}
	for _, b := range in.file.Image.Blocks {
		have, ok := local[b.Name]
		switch {
		case !ok:
			return migration.UnknownBlock(b.Name)
		case have.Used != b.Length && b.Length > maxStreamedBlock:
			return qmp.Errorf("the memory \"%s\" has %d bytes in the image and %d here: QEMU must be started as the saved one was (-m)",
				b.Name, b.Length, have.Used)
		case !streamed(b):
			in.large = append(in.large, have)
		}
	}
	return nil
}

// loadPages writes the pages of large blocks into QEMU's memory.
func (in *incoming) loadPages(ctx context.Context) (err error) {
	in.p.mu.Lock()
	again := in.p.filled
	in.p.filled = true
	in.p.mu.Unlock()
	view, err := guest{in.p}.view(in.large, guestmem.ReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	return in.file.LoadPages(ctx, view, again)
}

// loadStream has QEMU load the stream. Meanwhile direct I/O is off, since a memfd does not support it.
func (in *incoming) loadStream(ctx context.Context, r *qmp.Request, stream *os.File, exitOnError *bool) (err error) {
	set, err := in.p.vm.PassFiles(ctx, "ramjet state stream", stream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreGone(in.p.vm.QMP.RemoveFDSet(ctx, set))) }()
	if in.file.Settings.DirectIO {
		if err := in.setDirect(ctx, false); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ignoreGone(in.setDirect(ctx, true))) }()
	}
	args := map[string]any{"uri": fmt.Sprintf("file:%s%d", fdset.Prefix, set)}
	if exitOnError != nil {
		args["exit-on-error"] = *exitOnError
	}
	return in.p.vm.QMP.ExecuteFor(ctx, r, "migrate-incoming", args, nil)
}

// ignoreGone ignores the error of a QEMU that has ended, as QEMU does when a load fails unless it was told not to.
func ignoreGone(err error) error {
	if errors.Is(err, qmp.ErrClosed) {
		return nil
	}
	return err
}

// setDirect sets QEMU's parameter direct-io.
func (in *incoming) setDirect(ctx context.Context, on bool) error {
	return in.p.vm.QMP.Execute(ctx, "migrate-set-parameters", map[string]bool{"direct-io": on}, nil)
}
