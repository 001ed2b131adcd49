// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qemu"
)

// source is where some pages of a block come from.
type source struct {
	image  *openedImage
	block  int              // its index in image
	stored mappedram.Bitmap // what image stores of it
	pages  mappedram.Bitmap // what of that is to be taken
}

// sources are where the pages of block i come from, each from one place: of a diff those that it stores, the others from
// its base.
func (r *restore) sources(i int) ([]source, error) {
	stored, err := r.image.Bitmap(i)
	if err != nil {
		return nil, err
	}
	own := source{r.image, i, stored, stored}
	if !r.fromBase(i) {
		return []source{own}, nil
	}
	j := r.base.Index(r.image.Blocks[i].Name)
	below, err := r.base.Bitmap(j)
	if err != nil {
		return nil, err
	}
	rest := make(mappedram.Bitmap, len(below))
	for k := range rest {
		rest[k] = below[k] &^ stored[k]
	}
	return []source{{r.base, j, below, rest}, own}, nil
}

// fromBase tells whether block i of the image has to be completed from the base.
func (r *restore) fromBase(i int) bool {
	return r.base != nil && !r.image.Seal.Blocks[i].Whole
}

// part is a source as a Load takes it, checked by c.
func (s source) part(c *pageCheck) migration.LoadBlock {
	p := c.add(s.block, 0, s.image.Blocks[s.block].Pages(), 0, s.stored)
	p.Stored = s.pages
	return p
}

// fill reads the blocks that are outside the stream into QEMU's memory.
func (r *restore) fill(ctx context.Context, in *qemu.Incoming, blocks []qemu.RAMBlock) (err error) {
	memory := map[int]guestmem.Memory{}
	defer func() {
		for _, m := range memory {
			err = errors.Join(err, m.Close())
		}
	}()
	for i, b := range r.image.Blocks {
		for _, q := range blocks {
			if q.Name != b.Name || !r.outside[b.Name] {
				continue
			}
			if memory[i], err = in.OpenMemory(q, guestmem.ReadWrite); err != nil {
				delete(memory, i)
				return err
			}
		}
	}
	r.Progress.phase("loading memory")
	if r.base != nil {
		if err := r.fillFrom(ctx, r.base, memory); err != nil {
			return err
		}
	}
	return r.fillFrom(ctx, r.image, memory)
}

// fillFrom reads what comes from one of the image and its base.
func (r *restore) fillFrom(ctx context.Context, image *openedImage, memory map[int]guestmem.Memory) error {
	l := &migration.Load{Image: directio.Reopen{File: image.file}}
	check := &pageCheck{image: image.Image, bad: refuseBad}
	if image.Seal != nil {
		l.Check = check.check
	}
	for i := range r.image.Blocks {
		if memory[i] == nil {
			continue
		}
		sources, err := r.sources(i)
		if err != nil {
			return err
		}
		for k, s := range sources {
			if s.image == image {
				part := s.part(check)
				part.Memory = memory[i]
				part.Clear = k == 0 // the others come on top
				l.Blocks = append(l.Blocks, part)
			}
		}
	}
	io, err := directio.Choose(r.Direct, l.Image, os.O_RDONLY)
	if err != nil {
		return err
	}
	l.Params = migration.Params{Channels: r.Channels, Direct: io.Direct, Cached: io.Cached}
	if image == r.image || r.io.Why == "" {
		r.io = io
	}
	if err := l.Run(ctx); err != nil {
		return fmt.Errorf("%s: %w", image.path, err)
	}
	r.log("%s: %d MiB read, %s I/O (%s), %d MiB of it from the page cache, where they were", image.path,
		l.Progress.Bytes.Load()>>20, io, io.Why, l.Progress.Cached.Load()>>20)
	return nil
}

func (r *restore) log(format string, args ...any) {
	if r.Log != nil {
		r.Log(fmt.Sprintf(format, args...))
	}
}
