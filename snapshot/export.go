// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
)

// ExportFormat is what an image can be written as.
type ExportFormat string

// ExportRaw is each block by itself, with what Import needs beside; ExportELF a core of the guest's physical memory;
// ExportFlat an image that builds on no other; ExportAge the image itself, encrypted.
const (
	ExportRaw  ExportFormat = "raw"
	ExportELF  ExportFormat = "elf"
	ExportFlat ExportFormat = "flat"
	ExportAge  ExportFormat = "age"
)

// ExportOptions are what Export can be told. Image, Out and Format are required.
type ExportOptions struct {
	Image  string
	Out    string    // a file; with ExportRaw a directory to be made, unless Block is given
	To     io.Writer // where the file goes, if it is to have no name; Out is then only what messages call it
	Format ExportFormat
	Block  string // ExportRaw: only this one, into the file Out
	// Memory are, for ExportELF, the main memory's blocks in the order of addresses, where the image does not say; NAME@ADDRESS is memory
	// that is plugged in there.
	Memory []string
	Base   string // of a diff, if it is not where it was
	Force  bool   // replace what is at Out

	Recipients []age.Recipient // ExportAge: who can read it

	Channels int
	Direct   directio.Mode
	Progress *Progress
}

// ExportResult is what `ramjet export --json` prints. Sizes are in bytes.
type ExportResult struct {
	Image    string          `json:"image"`
	Out      string          `json:"out"`
	Format   ExportFormat    `json:"format"`
	Files    []ExportFile    `json:"files"`
	Segments []ExportSegment `json:"segments,omitempty"` // ExportELF
	CPUs     int             `json:"cpus"`               // ExportELF: whose registers are in the notes
	ID       string          `json:"id,omitempty"`       // ExportFlat: of the new image; ExportAge: of the image
	LeftOut  []string        `json:"left_out"`           // blocks that are not in it
	Seconds  float64         `json:"seconds"`
}

// ExportFile is a file that was written.
type ExportFile struct {
	Path  string `json:"path"`
	Block string `json:"block,omitempty"` // whose memory it is
	Bytes int64  `json:"bytes"`           // with holes
}

// ExportSegment is a range of physical memory in an ELF core.
type ExportSegment struct {
	Address int64  `json:"address"`
	Length  int64  `json:"length"`
	Block   string `json:"block"`
	Offset  int64  `json:"offset"` // in the block
}

// export is one Export under way.
type export struct {
	ExportOptions
	image  *imageAndBase
	result *ExportResult
}

// Export writes an image in another form. Pages of a sealed image are checked as they are read; what is zero is a hole.
// Nothing is at Out unless all of it is.
func Export(ctx context.Context, o ExportOptions) (*ExportResult, error) {
	began := time.Now()
	if err := (migration.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	e := &export{ExportOptions: o, result: &ExportResult{
		Image: o.Image, Out: o.Out, Format: o.Format, Files: []ExportFile{}, LeftOut: []string{},
	}}
	if err := e.open(); err != nil {
		return nil, err
	}
	defer e.image.close()
	write := e.raw
	switch {
	case o.Format == ExportELF:
		write = e.elf
	case o.Format == ExportFlat:
		write = e.flat
	case o.Format == ExportAge:
		write = e.encrypted
	case o.Format != ExportRaw:
		return nil, fmt.Errorf("%q is no format to export to: raw, elf, flat and age are", o.Format)
	case o.Block != "":
		write = e.oneBlock
	}
	if err := write(ctx); err != nil {
		if e.To == nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
			err = diskFull(err, e.Out)
		}
		return nil, interrupted(ctx, err)
	}
	e.result.Seconds = time.Since(began).Seconds()
	return e.result, nil
}

func (e *export) open() (err error) {
	image, err := openImage(e.Image)
	if err != nil {
		return err
	}
	e.image = &imageAndBase{openedImage: image}
	if image.Seal != nil {
		err = image.VerifyStream()
	}
	if err == nil && image.baseID() != nil && e.Format != ExportAge {
		e.image.base, err = openBaseOf(image, e.Base)
	}
	if err != nil {
		e.image.close()
		return fmt.Errorf("%s: %w", e.Image, err)
	}
	return nil
}

// elf writes a core.
func (e *export) elf(ctx context.Context) error {
	ranges, err := physical(e.image.openedImage, e.Memory)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Image, err)
	}
	cpus, note, err := cpuStates(e.image.openedImage)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Image, err)
	}
	if len(cpus) > 0 && !cpus[0].longMode {
		return fmt.Errorf("%s: its guest is not in 64-bit mode, and only cores of guests that are can be written: export it raw, or restore it and use QEMU's dump-guest-memory", e.Image)
	}
	guestNote, err := e.guestNote(note, ranges)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Image, err)
	}
	core := newELFCore(ranges, cpus, guestNote)
	e.result.CPUs = len(cpus)
	in := map[string][]elfSegment{}
	for _, s := range core.segments {
		in[s.Block] = append(in[s.Block], s)
		e.result.Segments = append(e.result.Segments, ExportSegment{s.Address, s.Length, s.Block, s.Offset})
	}
	var blocks []int
	for i, b := range e.image.Blocks {
		if in[b.Name] != nil {
			blocks = append(blocks, i)
		} else {
			e.result.LeftOut = append(e.result.LeftOut, b.Name)
		}
	}
	return e.file(e.Out, "", core.size, func(f *directio.File) error {
		if _, err := f.WriteAt(core.head, 0); err != nil {
			return err
		}
		return e.copy(ctx, blocks, func(block int, off int64, p []byte) error {
			for _, s := range in[e.image.Blocks[block].Name] {
				from, to := max(off, s.Offset), min(off+int64(len(p)), s.Offset+s.Length)
				if from >= to {
					continue
				}
				if _, err := f.WriteAt(p[from-off:to-off], s.at+from-s.Offset); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// file makes one file of that size, durably and under its name only when write has succeeded.
func (e *export) file(path, block string, size int64, write func(*directio.File) error) error {
	if e.To != nil {
		return e.pass(block, size, write)
	}
	t, err := newTarget(path, e.Force)
	if err != nil {
		return err
	}
	defer t.Discard()
	if err := t.file.Truncate(size); err != nil {
		return err
	}
	if err := write(t.file); err != nil {
		return err
	}
	e.result.Files = append(e.result.Files, ExportFile{path, block, size})
	_, err = t.Publish(false)
	return err
}

// pass makes the file without a name, where temporary files are, and gives it to e.To when it is whole: pages come in no order.
func (e *export) pass(block string, size int64, write func(*directio.File) error) error {
	scratch, err := scratch(os.TempDir())
	if err != nil {
		return err
	}
	f, err := directio.NewFile(scratch)
	if err != nil {
		return errors.Join(err, scratch.Close())
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(size), write(f)); err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		_, err = io.Copy(e.To, io.NewSectionReader(f, 0, st.Size()))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Out, err)
	}
	e.result.Files = append(e.result.Files, ExportFile{e.Out, block, st.Size()})
	return nil
}

// scratchDir is where files go that are needed until the export is done.
func (e *export) scratchDir() string {
	if e.To != nil {
		return os.TempDir()
	}
	return filepath.Dir(e.Out)
}

// copy gives put the pages of blocks that are not zero, some neighbouring ones at a time, from several goroutines, each
// page once; of a diff's base it may give pages that the diff does not replace only.
func (e *export) copy(ctx context.Context, blocks []int, put func(block int, off int64, p []byte) error) error {
	for _, image := range []*openedImage{e.image.base, e.image.openedImage} {
		if image == nil {
			continue
		}
		check := &pageCheck{image: image.Image, bad: refuseBad}
		l := &migration.Load{Image: directio.Reopen{File: image.file}}
		var of []int // part -> block
		for _, i := range blocks {
			sources, err := e.image.sources(i)
			if err != nil {
				return err
			}
			for _, s := range sources {
				if s.image == image {
					l.Blocks = append(l.Blocks, s.part(check))
					of = append(of, i)
				}
			}
		}
		l.Check = func(part int, first int64, pages []byte) error {
			if image.Seal != nil {
				if err := check.check(part, first, pages); err != nil {
					return err
				}
			}
			return nonZero(pages, func(at int64, p []byte) error {
				return put(of[part], first*mappedram.PageSize+at, p)
			})
		}
		io, err := directio.Choose(e.Direct, l.Image, os.O_RDONLY)
		if err != nil {
			return err
		}
		l.Params = migration.Params{Channels: e.Channels, Direct: io.Direct, Cached: io.Cached}
		e.Progress.phase("exporting")
		stop := e.Progress.follow(&l.Progress)
		err = l.Run(ctx)
		stop()
		if err != nil {
			return fmt.Errorf("%s: %w", image.path, err)
		}
	}
	return nil
}

// nonZero calls f with each run of pages that are not zero.
func nonZero(pages []byte, f func(at int64, p []byte) error) error {
	for at := 0; at < len(pages); {
		end := at
		for end < len(pages) && !guestmem.IsZero(pages[end:end+mappedram.PageSize]) {
			end += mappedram.PageSize
		}
		if end == at {
			at += mappedram.PageSize
			continue
		}
		if err := f(int64(at), pages[at:end]); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// errNotEmpty: a directory that is not ours to fill.
var errNotEmpty = errors.New("exists and is not empty: name another directory, or add to it with --force")
