// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// stateStream is a small mapped-ram stream made from an image, in memory: all the device state, and of the RAM only what gets into the
// VM in no other way. Blocks that get there otherwise have empty bitmaps, and QEMU leaves their memory as it finds it
// (read_ramblock_mapped_ram).
//
// A diff over a base that is mapped is such a stream itself, and QEMU loads the diff's file.
type stateStream struct {
	file       *os.File // open for reading only, as QEMU asks of a descriptor set
	wasRunning bool     // the saved VM ran, or its guest slept: it goes on after the load
	asleep     bool     // the guest sleeps (S3), and sleeps on after the load
	processors int      // of the saved VM; 0: not known
}

// stateWriter makes a state stream from an image.
type stateWriter struct {
	o       Options
	image   *image.Image
	outside map[string]bool // names of the blocks that get into the VM otherwise
}

// open returns the state stream.
func (w *stateWriter) open(ctx context.Context) (*stateStream, error) {
	sections, err := w.image.DeviceSections()
	if err != nil {
		return nil, err
	}
	if err := vmstate.CheckRunState(sections); err != nil {
		return nil, fmt.Errorf("%s: %w: save its VM again, with ramjet", w.image.Path, err)
	}
	s := &stateStream{wasRunning: wasRunning(sections), processors: countProcessors(w.image.File, sections)}
	s.asleep, _ = vmstate.WasSuspended(sections)
	stream, err := w.diffItself(ctx)
	if err == nil && stream == nil {
		if stream, err = w.write(ctx, sections); err == nil {
			defer stream.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	s.file, err = directio.Reopen{File: stream}.Open(os.O_RDONLY)
	return s, err
}

// wasRunning reports whether the VM is to go on after the load. One whose run state is not known is.
func wasRunning(sections []byte) bool {
	s, err := vmstate.RunState(sections)
	return err != nil || s == "running" || s == "suspended"
}

// countProcessors counts the processors in the device state, where each has a section of its own; 0 if they cannot be counted.
func countProcessors(img *image.File, sections []byte) (n int) {
	if len(sections) > image.MaxParsedState {
		return 0
	}
	var d *vmstate.Description // helps to find where sections end, and may be missing
	if img.DescriptionLength <= image.MaxParsedDescription {
		if text, err := img.Description(); err == nil && text != nil {
			d, _ = vmstate.ParseDescription(text)
		}
	}
	list, err := vmstate.Sections(sections, d)
	if err != nil {
		return 0
	}
	for _, s := range list {
		if s.Name == vmstate.CPUSection {
			n++
		}
	}
	return n
}

// diffItself returns the image's file if the image is a diff that QEMU can load as it is, else nil: all blocks that need the base
// are mapped, and all others are not.
func (w *stateWriter) diffItself(ctx context.Context) (*os.File, error) {
	if w.image.Base == nil || w.o.Mode == Eager || w.image.Offset != 0 {
		return nil, nil
	}
	for i, b := range w.image.Blocks {
		if w.outside[b.Name] != w.image.FromBase(i) {
			return nil, nil
		}
		if !w.outside[b.Name] {
			continue
		}
		stale, err := w.stale(ctx, w.image.Base, w.image.Base.Index(b.Name))
		if err != nil || stale.Count() > 0 {
			return nil, err
		}
	}
	return w.image.Descriptor, nil
}

// write writes the stream to a file in memory.
func (w *stateWriter) write(ctx context.Context, sections []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("ramjet-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory for the state stream: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state stream")
	if err := w.writeTo(ctx, f, sections); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot make the state stream: %w", err)
	}
	return f, nil
}

func (w *stateWriter) writeTo(ctx context.Context, f *os.File, sections []byte) error {
	blocks := make([]mappedram.Block, len(w.image.Blocks))
	for i, b := range w.image.Blocks {
		blocks[i] = mappedram.Block{Name: b.Name, Length: b.Length}
	}
	layout, err := mappedram.Like(w.image.Layout, blocks)
	if err != nil {
		return err
	}
	// A QEMU that finds no description of the devices complains on its standard error, and goes on (qemu_loadvm_state).
	out := image.Writer{To: f, Layout: layout, Stored: make([]mappedram.Bitmap, len(blocks)), Sections: sections, Description: []byte("{}")}
	for i := range blocks {
		if out.Stored[i], err = w.writeBlock(ctx, f, layout, i); err != nil {
			return err
		}
	}
	return out.Unsealed()
}

// maxAllStored bounds the blocks, in bytes, of which the stream sets every bit: flash, above all, which QEMU fills from a file when it
// starts (pflash_cfi01_realize), and that file may have changed. Zero pages are holes in the stream. Larger blocks, video memory for
// example, are zero in a QEMU that starts.
const maxAllStored = 8 << 20

// stale returns the stale pages of a block that is mapped. In an image of Ramjet's they are damage, which the restore repairs.
func (w *stateWriter) stale(ctx context.Context, f *image.File, block int) (mappedram.Bitmap, error) {
	stale, err := f.Stale(ctx, block)
	if n := stale.Count(); err == nil && n > 0 && f.Format == "ramjet" {
		w.o.log("%s: %d pages of block %s are zero and something else is in their places, which the VM does not get to see (ramjet verify names them)",
			f.Path, n, f.Blocks[block].Name)
	}
	return stale, err
}

// writeBlock copies to the stream what it has to have of block i, and returns which pages it has.
func (w *stateWriter) writeBlock(ctx context.Context, f *os.File, layout *mappedram.Layout, i int) (stored mappedram.Bitmap, err error) {
	b := w.image.Blocks[i]
	if w.outside[b.Name] && w.o.Mode == Eager {
		return nil, nil
	}
	sources, err := w.image.Sources(i)
	if err != nil {
		return nil, err
	}
	stored = mappedram.NewBitmap(b.Pages())
	if w.outside[b.Name] {
		// The first source is mapped. The stream makes only its stale pages zero.
		if stored, err = w.stale(ctx, sources[0].Image, sources[0].Block); err != nil {
			return nil, err
		}
		sources = sources[1:]
	} else if b.Length <= maxAllStored {
		stored.SetRange(0, b.Pages())
	}
	for _, s := range sources {
		if err := copyPages(s, f, layout.Blocks[i].PagesOffset); err != nil {
			return nil, err
		}
		for k, bits := range s.Pages {
			stored[k] |= bits
		}
	}
	return stored, nil
}

// copyPages copies the pages of a source to a file in which the block's pages begin at offset at, and checks them if the source is
// sealed.
func copyPages(s image.Source, to *os.File, at int64) error {
	b := s.Image.Blocks[s.Block]
	check := &image.PageCheck{Image: s.Image.Image, Bad: image.RefuseBad}
	part := s.Part(check)
	buf := make([]byte, 1<<20)
	for first, end := range s.Pages.Runs(b.Pages()) {
		for off := first * b.PageSize; off < end*b.PageSize; {
			p := buf[:min(int64(len(buf)), end*b.PageSize-off)]
			if _, err := s.Image.Descriptor.ReadAt(p, b.PagesOffset+off); err != nil {
				return fmt.Errorf("block %s: %w", b.Name, err)
			}
			if s.Image.Seal != nil {
				if err := check.Check(part.Index, off/b.PageSize, p); err != nil {
					return err
				}
			}
			if _, err := to.WriteAt(p, at+off); err != nil {
				return err
			}
			off += int64(len(p))
		}
	}
	return nil
}
