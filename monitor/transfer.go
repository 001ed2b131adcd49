// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// migrating is one outgoing migration under way.
type migrating struct {
	*Outgoing
	address  Address
	settings Settings
	view     *View
	opened   *Opened

	file   *directio.File // for headers, bitmaps and device state
	device bool           // file is a block device
	layout *mappedram.Layout
	engine *transfer.Save
	sums   *transfer.Sums
}

// mercy bounds how long the guest is waited for when all that is left to do is to let it go on.
const mercy = 20 * time.Second

// run does it, and leaves guest and file as they were if it fails.
func (t *migrating) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, t.view.Close()) }()
	// Errors of close are the disk's word on something else: the image is durable by then, or worthless.
	defer t.opened.Close()
	if t.file, err = directio.NewFile(t.opened.Main); err != nil {
		return err
	}
	if t.device, err = directio.IsDevice(t.file.File); err == nil {
		err = t.migrate(ctx)
	}
	if err != nil {
		// What is there of the image is worth nothing, and may have filled the disk.
		_ = truncate(t.file.File, t.address.Offset)
		resume, cancel := context.WithTimeout(context.Background(), mercy)
		defer cancel()
		err = errors.Join(err, t.Guest.Resume(resume))
	}
	if t.sums != nil {
		t.sums.Close()
	}
	return err
}

func (t *migrating) migrate(ctx context.Context) error {
	running, err := t.Guest.Running(ctx)
	if err != nil {
		return err
	}
	live := running && t.settings.MappedRAM
	if err := t.prepare(ctx, live); err != nil {
		return err
	}
	t.pass()
	t.advance(statusActive)
	if live {
		if err := t.engine.Run(ctx); err != nil {
			return err
		}
		// So that little is left to be made durable while the guest stands still.
		if err := t.file.Sync(); err != nil {
			return err
		}
	}
	return t.switchover(ctx, live)
}

// switchover is what happens while the guest stands still.
func (t *migrating) switchover(ctx context.Context, live bool) error {
	stopping := time.Now()
	if err := t.Guest.Stop(ctx); err != nil {
		return err
	}
	t.mu.Lock()
	t.stats.stopped = stopping
	t.mu.Unlock()
	if err := t.refresh(ctx, live); err != nil {
		return err
	}
	if t.settings.Pause {
		if err := t.pause(ctx); err != nil {
			return err
		}
	}
	if live {
		t.hurry()
	}
	t.advance(statusDevice)
	sections, err := t.Guest.State(ctx)
	if err != nil {
		return err
	}
	t.pass()
	write := t.pages
	if !t.settings.MappedRAM {
		write = t.plain
	}
	if err := write(ctx, sections); err != nil {
		return err
	}
	return t.Guest.Done(context.WithoutCancel(ctx))
}

// pages writes the pages and all the rest, and makes it durable, the first bytes last.
func (t *migrating) pages(ctx context.Context, sections []byte) error {
	if err := t.engine.Run(ctx); err != nil {
		return err
	}
	if err := t.engine.Release(t.file); err != nil {
		return err
	}
	w := t.writer(sections)
	end, err := w.Rest()
	if err != nil {
		return err
	}
	if t.device {
		if err := t.closeTail(end); err != nil {
			return err
		}
	}
	t.mu.Lock()
	t.stats.rest = t.besidesPages(end)
	t.mu.Unlock()
	return image.PublishInPlace(t.file, w, func() error { return t.mayPublish(ctx) })
}

// mayPublish is asked when all but the file's first bytes is written: the guest has stood still, and nobody has cancelled.
func (t *migrating) mayPublish(ctx context.Context) error {
	if err := t.Guest.Still(ctx); err != nil {
		return err
	}
	return t.commit()
}

// refresh begins again where the guest's memory is not made of the same blocks any more: firmware resizes ROMs, and
// memory can be plugged.
func (t *migrating) refresh(ctx context.Context, live bool) error {
	same, err := t.Guest.Current(ctx, t.view)
	if err != nil || same {
		return err
	}
	view, err := t.Guest.Open(ctx)
	if err != nil {
		return err
	}
	t.view.Close()
	t.view = view
	return t.prepare(ctx, live)
}

// prepare lays the image out and makes the engine.
func (t *migrating) prepare(ctx context.Context, live bool) (err error) {
	if t.address.Offset > math.MaxInt64 {
		return fmt.Errorf("offset %d is beyond what a file can have", t.address.Offset)
	}
	if !t.settings.MappedRAM {
		return nil
	}
	config := vmstate.Config{MachineType: t.view.Machine, Capabilities: []string{"mapped-ram"}}
	if t.layout, err = mappedram.NewLayout(int64(t.address.Offset), config, t.view.Blocks); err != nil {
		return err
	}
	if t.device {
		if err := t.room(ctx); err != nil {
			return err
		}
	}
	// A direct write that extends a file is done one at a time (ext4_dio_write_checks), so the file has its length first.
	for _, size := range []int64{t.layout.Offset, t.layout.RAMEnd} {
		if t.device {
			break
		}
		if err := t.file.Truncate(size); err != nil {
			return err
		}
	}
	if t.sums != nil {
		t.sums.Close()
		t.sums = nil
	}
	if live {
		fd, err := unix.MemfdCreate("ramjet-page-sums", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("no memory for page sums: %w", err)
		}
		t.sums = transfer.NewSums(os.NewFile(uintptr(fd), "page sums"), t.layout.Blocks)
	}
	p := transfer.Params{Channels: max(t.settings.PageChannels(), 1), Direct: t.settings.Direct()}
	t.engine = &transfer.Save{Layout: t.layout, Memory: t.view.Memory, Image: t.opened.Pages, Params: p, Limit: t.limit, Sums: t.sums, Live: live}
	t.mu.Lock()
	t.stats.engine, t.stats.total = &t.engine.Progress, t.view.Total()
	t.mu.Unlock()
	return t.engine.Reserve(t.file)
}

// writer writes all but the pages.
func (t *migrating) writer(sections []byte) *image.Writer {
	all := t.writeZeros()
	for i, b := range t.engine.Stored {
		if all {
			// What was asked for is that every page counts. Those of zeros are holes, which read the same.
			b.SetRange(0, t.layout.Blocks[i].Pages())
		}
	}
	return &image.Writer{To: t.file, Layout: t.layout, Stored: t.engine.Stored, Sections: sections}
}

// besidesPages is how many bytes headers, bitmaps and device state have.
func (t *migrating) besidesPages(end int64) int64 {
	n := end - t.layout.RAMEnd
	at := t.layout.Offset
	for _, b := range t.layout.Blocks {
		n += b.BitmapOffset + b.BitmapSize() - at
		at = b.PagesEnd()
	}
	return n
}

// oneLine makes joined errors one line.
func oneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
