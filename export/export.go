// SPDX-License-Identifier: Apache-2.0

package export

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
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Format is what an image can be written as.
type Format string

// Raw is each block by itself, with what Import needs beside; ELF a core of the guest's physical memory;
// Flat an image that builds on no other; Age the image itself, encrypted.
const (
	Raw  Format = "raw"
	ELF  Format = "elf"
	Flat Format = "flat"
	Age  Format = "age"
)

// Options are what Export can be told. Image, Out and Format are required.
type Options struct {
	Image  string
	Out    string    // a file; with Raw a directory to be made, unless Block is given
	To     io.Writer // where the file goes, if it is to have no name; Out is then only what messages call it
	Format Format
	Block  string // Raw: only this one, into the file Out
	// Memory are, for ELF, the main memory's blocks in the order of addresses, where the image does not say; NAME@ADDRESS is memory
	// that is plugged in there.
	Memory []string
	Base   string // of a diff, if it is not where it was
	Force  bool   // replace what is at Out

	Recipients []age.Recipient // Age: who can read it

	Channels int
	Direct   directio.Mode
	Progress *image.Progress
}

// Result is what `ramjet export --json` prints. Sizes are in bytes.
type Result struct {
	Image    string    `json:"image"`
	Out      string    `json:"out"`
	Format   Format    `json:"format"`
	Files    []File    `json:"files"`
	Segments []Segment `json:"segments,omitempty"` // ELF
	CPUs     int       `json:"cpus"`               // ELF: whose registers are in the notes
	ID       string    `json:"id,omitempty"`       // Flat: of the new image; Age: of the image
	LeftOut  []string  `json:"left_out"`           // blocks that are not in it
	Seconds  float64   `json:"seconds"`
}

// File is a file that was written.
type File struct {
	Path  string `json:"path"`
	Block string `json:"block,omitempty"` // whose memory it is
	Bytes int64  `json:"bytes"`           // with holes
}

// Segment is a range of physical memory in an ELF core.
type Segment struct {
	Address int64  `json:"address"`
	Length  int64  `json:"length"`
	Block   string `json:"block"`
	Offset  int64  `json:"offset"` // in the block
}

// export is one Export under way.
type export struct {
	Options
	image  *image.Image
	result *Result
}

// Export writes an image in another form. Pages of a sealed image are checked as they are read; what is zero is a hole.
// Nothing is at Out unless all of it is.
func Export(ctx context.Context, o Options) (*Result, error) {
	began := time.Now()
	if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	e := &export{Options: o, result: &Result{
		Image: o.Image, Out: o.Out, Format: o.Format, Files: []File{}, LeftOut: []string{},
	}}
	if err := e.open(); err != nil {
		return nil, err
	}
	defer e.image.Close()
	write := e.raw
	switch {
	case o.Format == ELF:
		write = e.elf
	case o.Format == Flat:
		write = e.flat
	case o.Format == Age:
		write = e.encrypted
	case o.Format != Raw:
		return nil, fmt.Errorf("%q is no format to export to: raw, elf, flat and age are", o.Format)
	case o.Block != "":
		write = e.oneBlock
	}
	if err := write(ctx); err != nil {
		if e.To == nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
			err = image.DiskFull(err, e.Out)
		}
		return nil, image.Interrupted(ctx, err)
	}
	e.result.Seconds = time.Since(began).Seconds()
	return e.result, nil
}

func (e *export) open() (err error) {
	img, err := image.OpenFile(e.Image)
	if err != nil {
		return err
	}
	e.image = &image.Image{File: img}
	if img.Seal != nil {
		err = img.VerifyStream()
	}
	if err == nil && img.BaseID() != nil && e.Format != Age {
		e.image.Base, err = image.OpenBaseOf(img, e.Base)
	}
	if err != nil {
		e.image.Close()
		return fmt.Errorf("%s: %w", e.Image, err)
	}
	return nil
}

// elf writes a core.
func (e *export) elf(ctx context.Context) error {
	ranges, err := cmdline.GuestMemory(e.image.Image, e.Memory)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Image, err)
	}
	cpus, note, err := cpuStates(e.image.File)
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
		e.result.Segments = append(e.result.Segments, Segment{s.Address, s.Length, s.Block, s.Offset})
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
	t, err := image.NewTarget(path, e.Force)
	if err != nil {
		return err
	}
	defer t.Discard()
	if err := t.File.Truncate(size); err != nil {
		return err
	}
	if err := write(t.File); err != nil {
		return err
	}
	e.result.Files = append(e.result.Files, File{path, block, size})
	_, err = t.Publish(false)
	return err
}

// pass makes the file without a name, where temporary files are, and gives it to e.To when it is whole: pages come in no order.
func (e *export) pass(block string, size int64, write func(*directio.File) error) error {
	scratch, err := image.Scratch(os.TempDir())
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
	e.result.Files = append(e.result.Files, File{e.Out, block, st.Size()})
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
	for _, img := range []*image.File{e.image.Base, e.image.File} {
		if img == nil {
			continue
		}
		check := &image.PageCheck{Image: img.Image, Bad: image.RefuseBad}
		l := &transfer.Load{Image: directio.Reopen{File: img.F}}
		var of []int // part -> block
		for _, i := range blocks {
			sources, err := e.image.Sources(i)
			if err != nil {
				return err
			}
			for _, s := range sources {
				if s.Image == img {
					l.Blocks = append(l.Blocks, s.Part(check))
					of = append(of, i)
				}
			}
		}
		l.Check = func(part int, first int64, pages []byte) error {
			if img.Seal != nil {
				if err := check.Check(part, first, pages); err != nil {
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
		l.Params = transfer.Params{Channels: e.Channels, Direct: io.Direct, Cached: io.Cached}
		e.Progress.SetPhase("exporting")
		stop := e.Progress.Follow(&l.Progress)
		err = l.Run(ctx)
		stop()
		if err != nil {
			return fmt.Errorf("%s: %w", img.Path, err)
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
