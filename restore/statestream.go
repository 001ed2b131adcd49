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

// stateStream is a small mapped-ram stream made from an image, in memory: all the device state, and of the RAM
// only what gets into the VM by no other way. The bitmaps of blocks that do are empty, and QEMU leaves
// their memory as it finds it (read_ramblock_mapped_ram).
//
// Over a base that is mapped a diff itself is that stream, as it is.
type stateStream struct {
	file       *os.File // open for reading only, as QEMU asks of a descriptor set
	wasRunning bool
	asleep     bool // the guest sleeps (S3)
	processors int  // of the saved VM; 0: not known
}

// openState makes the state stream.
func (r *restore) openState(ctx context.Context) (*stateStream, error) {
	sections, err := r.image.DeviceSections()
	if err != nil {
		return nil, err
	}
	if err := vmstate.CheckRunState(sections); err != nil {
		return nil, fmt.Errorf("%s: %w: save its VM again, with ramjet", r.Image, err)
	}
	s := &stateStream{wasRunning: wasRunning(sections), processors: processors(r.image.File, sections)}
	s.asleep, _ = vmstate.WasSuspended(sections)
	if whole, err := r.diffIsStream(ctx); err != nil {
		return nil, err
	} else if whole {
		s.file, err = directio.Reopen{File: r.image.F}.Open(os.O_RDONLY)
		return s, err
	}
	fd, err := unix.MemfdCreate("ramjet-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory for the state stream: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state stream")
	defer f.Close()
	if err := r.writeState(ctx, f, sections); err != nil {
		return nil, fmt.Errorf("cannot make the state stream: %w", err)
	}
	s.file, err = directio.Reopen{File: f}.Open(os.O_RDONLY)
	return s, err
}

// diffIsStream tells whether the image is a diff that QEMU can load as it is: all that it needs of the base is mapped, and
// nothing that it has itself is.
func (r *restore) diffIsStream(ctx context.Context) (bool, error) {
	if r.image.Base == nil || r.Mode == Eager || r.image.Offset != 0 {
		return false, nil
	}
	for i, b := range r.image.Blocks {
		if r.outside[b.Name] != r.image.FromBase(i) {
			return false, nil
		}
		if !r.outside[b.Name] {
			continue
		}
		stale, err := r.staleOf(ctx, r.image.Base, r.image.Base.Index(b.Name))
		if err != nil || stale.Count() > 0 {
			return false, err
		}
	}
	return true, nil
}

func (r *restore) writeState(ctx context.Context, f *os.File, sections []byte) error {
	blocks := make([]mappedram.Block, len(r.image.Blocks))
	for i, b := range r.image.Blocks {
		blocks[i] = mappedram.Block{Name: b.Name, Length: b.Length}
	}
	layout, err := mappedram.Like(r.image.Layout, blocks)
	if err != nil {
		return err
	}
	// A QEMU that finds no description of the devices complains on its standard error, and goes on (qemu_loadvm_state).
	w := image.Writer{To: f, Layout: layout, Stored: make([]mappedram.Bitmap, len(blocks)), Sections: sections, Description: []byte("{}")}
	for i := range blocks {
		if w.Stored[i], err = r.writeBlock(ctx, f, layout, i); err != nil {
			return err
		}
	}
	return w.Unsealed()
}

// settledSize bounds the blocks, in bytes, of which the stream sets every bit: flash, above all, which QEMU fills from a file when
// it starts (pflash_cfi01_realize), and that may not be what it was. Zero pages are holes in
// the stream. Larger blocks, video memory say, begin as zeros.
const settledSize = 8 << 20

// staleOf returns the stale pages of a block that is mapped. In an image of Ramjet's they are damage that a restore repairs.
func (r *restore) staleOf(ctx context.Context, image *image.File, block int) (mappedram.Bitmap, error) {
	stale, err := image.Stale(ctx, block)
	if n := stale.Count(); err == nil && n > 0 && image.Format == "ramjet" {
		r.log("%s: %d pages of block %s are zero and something else is in their places, which the VM does not get to see (ramjet verify names them)",
			image.Path, n, image.Blocks[block].Name)
	}
	return stale, err
}

// writeBlock copies what of a block has to be in the stream, and says which pages the stream has.
func (r *restore) writeBlock(ctx context.Context, f *os.File, layout *mappedram.Layout, i int) (mappedram.Bitmap, error) {
	outside := r.outside[r.image.Blocks[i].Name]
	if outside && r.Mode == Eager {
		return nil, nil
	}
	sources, err := r.image.Sources(i)
	if err != nil {
		return nil, err
	}
	all := mappedram.NewBitmap(r.image.Blocks[i].Pages())
	if outside {
		// The lowest is mapped. Of that only pages are wanted whose place in the file holds something and should not.
		if all, err = r.staleOf(ctx, sources[0].Image, sources[0].Block); err != nil {
			return nil, err
		}
		sources = sources[1:]
	} else if b := r.image.Blocks[i]; b.Length <= settledSize {
		all.SetRange(0, b.Pages())
	}
	for _, s := range sources {
		if err := copyPages(s, f, layout.Blocks[i].PagesOffset); err != nil {
			return nil, err
		}
		for k, w := range s.Pages {
			all[k] |= w
		}
	}
	return all, nil
}

// copyPages copies the pages of a source to a file in which the block's begin at offset at, and checks them if the image is sealed.
func copyPages(s image.Source, to *os.File, at int64) error {
	b := s.Image.Blocks[s.Block]
	check := &image.PageCheck{Image: s.Image.Image, Bad: image.RefuseBad}
	part := s.Part(check)
	buf := make([]byte, 1<<20)
	for first, end := range s.Pages.Runs(b.Pages()) {
		for off := first * b.PageSize; off < end*b.PageSize; {
			p := buf[:min(int64(len(buf)), end*b.PageSize-off)]
			if _, err := s.Image.F.ReadAt(p, b.PagesOffset+off); err != nil {
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
