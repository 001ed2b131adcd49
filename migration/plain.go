// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Without the capability mapped-ram the file is a plain stream: one page after the other, each with its
// address (QEMU ram.c save_normal_page, save_zero_page). All integers are big-endian.
//
//	header                           package vmstate, without capabilities
//	01 START of "ram": be64 length of memory | 4, then of each block u8 name, be64 length; be64 10, footer
//	03 END of "ram", then of each page
//	    be64                         its address in the block | 8, or | 2 for one of zeros; | 20 if it is of the same block as the last
//	    [u8 name]                    the block, without | 20
//	    4096 bytes, or u8 0
//	be64 10, footer
//	devices, 00
const (
	pageZero     = 0x02
	pageSizes    = 0x04
	pageData     = 0x08
	pageContinue = 0x20
	pageFlags    = 0xfff
)

// plainSectionID is the id of the section "ram".
const plainSectionID = 1

// writePlain saves the stopped guest as a plain stream. The stream is durable when writePlain returns, and its first
// bytes are written last.
func (r *outgoingRun) writePlain(ctx context.Context, sections []byte) error {
	w := &plainWriter{view: r.view, progress: new(transfer.Progress), limit: r.o.limit}
	r.o.record(func(s *statistics) { s.engine = w.progress })
	start := int64(r.address.Offset)
	w.out = bufio.NewWriterSize(io.NewOffsetWriter(r.file, start+vmstate.MagicSize), plainBurst)
	w.head()
	for i := range r.view.Blocks {
		if err := w.block(ctx, i); err != nil {
			return err
		}
	}
	w.tail(sections)
	if err := w.out.Flush(); err != nil {
		return err
	}
	if err := r.file.Sync(); err != nil {
		return err
	}
	if err := r.mayPublish(ctx); err != nil {
		return err
	}
	magic := vmstate.Magic()
	if _, err := r.file.WriteAt(magic[:], start); err != nil {
		return err
	}
	return r.file.Sync()
}

// plainBurst is the number of bytes that are read or written at a time.
const plainBurst = 256 << 10

// plainWriter writes a plain stream, without its first bytes.
type plainWriter struct {
	view     *View
	out      *bufio.Writer // its error stays until Flush
	progress *transfer.Progress
	limit    *transfer.Limit
	zeros    []byte
}

func (w *plainWriter) head() {
	b := vmstate.AppendHeader(nil, vmstate.Config{MachineType: w.view.Machine})
	b = vmstate.AppendSectionStart(b, vmstate.TypeStart, plainSectionID, vmstate.RAMName, 0, vmstate.RAMVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(w.view.Total())|pageSizes)
	for _, block := range w.view.Blocks {
		b = append(append(b, byte(len(block.Name))), block.Name...)
		b = binary.BigEndian.AppendUint64(b, uint64(block.Length))
	}
	b = binary.BigEndian.AppendUint64(b, vmstate.RAMEndOfSection)
	b = vmstate.AppendFooter(b, plainSectionID)
	b = vmstate.AppendSectionPart(b, vmstate.TypeEnd, plainSectionID)
	w.out.Write(b[vmstate.MagicSize:])
}

func (w *plainWriter) tail(sections []byte) {
	b := binary.BigEndian.AppendUint64(nil, vmstate.RAMEndOfSection)
	b = append(vmstate.AppendFooter(b, plainSectionID), sections...)
	w.out.Write(vmstate.AppendEnd(b, nil))
}

func (w *plainWriter) block(ctx context.Context, i int) error {
	m, next := w.view.Memory[i], int64(0)
	buf := make([]byte, plainBurst)
	for r, err := range m.Populated(guestmem.Range{End: m.Size()}) {
		if err != nil {
			return err
		}
		if err := w.holes(ctx, i, next, r.Start); err != nil {
			return err
		}
		for at := r.Start; at < r.End; at += plainBurst {
			p := buf[:min(plainBurst, r.End-at)]
			if err := m.Read(p, at); err != nil {
				return err
			}
			if err := w.pages(ctx, i, at, p); err != nil {
				return err
			}
		}
		next = r.End
	}
	return w.holes(ctx, i, next, m.Size())
}

// holes writes pages of zeros.
func (w *plainWriter) holes(ctx context.Context, i int, from, to int64) error {
	if w.zeros == nil {
		w.zeros = make([]byte, plainBurst)
	}
	for at := from; at < to; at += plainBurst {
		if err := w.pages(ctx, i, at, w.zeros[:min(plainBurst, to-at)]); err != nil {
			return err
		}
	}
	return nil
}

// pages writes neighbouring pages of block i.
func (w *plainWriter) pages(ctx context.Context, i int, at int64, p []byte) error {
	written := 0
	for ; len(p) > 0; at, p = at+guestmem.PageSize, p[guestmem.PageSize:] {
		page, flags := p[:guestmem.PageSize], uint64(pageData)
		if guestmem.IsZero(page) {
			page, flags = []byte{0}, pageZero
			w.progress.Zero.Add(1)
		} else {
			w.progress.Stored.Add(1)
		}
		var head []byte
		if at > 0 {
			head = binary.BigEndian.AppendUint64(nil, uint64(at)|flags|pageContinue)
		} else {
			head = binary.BigEndian.AppendUint64(nil, flags)
			head = append(append(head, byte(len(w.view.Blocks[i].Name))), w.view.Blocks[i].Name...)
		}
		w.out.Write(head)
		if _, err := w.out.Write(page); err != nil {
			return err
		}
		w.progress.Passed.Add(guestmem.PageSize)
		w.progress.Bytes.Add(int64(len(head) + len(page)))
		written += len(head) + len(page)
	}
	return w.pace(ctx, written)
}

// pace waits until the bandwidth limit allows n bytes.
func (w *plainWriter) pace(ctx context.Context, n int) error {
	for n > 0 {
		k, err := w.limit.Wait(ctx, n)
		if err != nil {
			return err
		}
		n -= k
	}
	return context.Cause(ctx)
}
