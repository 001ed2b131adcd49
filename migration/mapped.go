// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"context"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// prepare lays the image out and makes the engine. With live the engine can write pages while the guest runs.
func (r *outgoingRun) prepare(ctx context.Context, live bool) (err error) {
	if r.address.Offset > math.MaxInt64 {
		return fmt.Errorf("offset %d is beyond what a file can have", r.address.Offset)
	}
	if !r.settings.MappedRAM {
		return nil
	}
	config := vmstate.Config{MachineType: r.view.Machine, Capabilities: []string{"mapped-ram"}}
	if r.layout, err = mappedram.NewLayout(int64(r.address.Offset), config, r.view.Blocks); err != nil {
		return err
	}
	if err := r.makeRoom(ctx); err != nil {
		return err
	}
	if r.sums != nil {
		r.sums.Close()
		r.sums = nil
	}
	if live {
		fd, err := unix.MemfdCreate("ramjet-page-sums", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("no memory for page sums: %w", err)
		}
		r.sums = transfer.NewSums(os.NewFile(uintptr(fd), "page sums"), r.layout.Blocks, r.o.Calls)
	}
	params := r.settings.engine()
	params.Calls = r.o.Calls
	r.engine = &transfer.Save{Layout: r.layout, Memory: r.view.Memory, Image: r.opened.Pages, Params: params,
		Limit: r.o.limit, Sums: r.sums, Live: live}
	r.o.record(func(s *statistics) { s.engine, s.total = &r.engine.Progress, r.view.Total() })
	return r.engine.Reserve(r.file)
}

// makeRoom gives the file the length that pages need, or zeroes the pages' places on a block device.
func (r *outgoingRun) makeRoom(ctx context.Context) error {
	if r.device {
		return clearDevice(ctx, r.file, r.layout)
	}
	// A direct write that extends a file excludes all others (ext4_dio_write_checks), so the file gets its length
	// first.
	for _, size := range []int64{r.layout.Offset, r.layout.RAMEnd} {
		if err := r.file.Truncate(size); err != nil {
			return err
		}
	}
	return nil
}

// refresh prepares anew if the guest's memory blocks have changed: firmware resizes ROMs, and memory can be plugged.
func (r *outgoingRun) refresh(ctx context.Context, live bool) error {
	same, err := r.o.Guest.Current(ctx, r.view)
	if err != nil || same {
		return err
	}
	view, err := r.o.Guest.Open(ctx)
	if err != nil {
		return err
	}
	r.view.Close()
	r.view = view
	return r.prepare(ctx, live)
}

// writeMapped writes the pages of the stopped guest and everything else, and makes it durable, the file's first bytes
// last.
func (r *outgoingRun) writeMapped(ctx context.Context, sections []byte) error {
	if err := r.engine.Run(ctx); err != nil {
		return err
	}
	if err := r.engine.Release(r.file); err != nil {
		return err
	}
	if r.o.writeZeros() {
		// Every page is to count as stored. Those of zeros are holes, which read the same.
		for i, b := range r.engine.Stored {
			b.SetRange(0, r.layout.Blocks[i].Pages())
		}
	}
	w := &image.Writer{To: r.file, Layout: r.layout, Stored: r.engine.Stored, Sections: sections}
	end, err := w.Rest()
	if err != nil {
		return err
	}
	if r.device {
		if err := closeTail(r.file, end); err != nil {
			return err
		}
	}
	r.o.record(func(s *statistics) { s.rest = besidesPages(r.layout, end) })
	return image.PublishInPlace(r.file, w, func() error { return r.mayPublish(ctx) })
}

// besidesPages is the number of bytes of headers, bitmaps and device state in an image that ends at end.
func besidesPages(l *mappedram.Layout, end int64) int64 {
	n := end - l.RAMEnd
	at := l.Offset
	for _, b := range l.Blocks {
		n += b.BitmapOffset + b.BitmapSize() - at
		at = b.PagesEnd()
	}
	return n
}
