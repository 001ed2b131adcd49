// SPDX-License-Identifier: Apache-2.0

// Package export writes images in other forms, and makes images of what it and others wrote: raw memory with device state, ELF cores
// for crash and gdb, whole images of diffs, encrypted copies (package age).
//
// What is exported was checked: pages of a sealed image against its sums. What is imported is the work of strangers: every file
// stays inside its directory, every length is bounded, and a command line that an import brings is not recorded unless asked for, since
// a restore would run it. Either way nothing has its name until all of it is durable.
package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/export/age"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/transfer"
)

// Format is what an image can be written as.
type Format string

const (
	Raw  Format = "raw"  // a file for each block, with what Import needs beside them
	ELF  Format = "elf"  // a core of the guest's physical memory
	Flat Format = "flat" // an image that builds on no other
	Age  Format = "age"  // the image's own file, encrypted
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

// export is one Export under way: what all formats have to be written with. Its methods are in this file, pages.go and output.go.
type export struct {
	o      Options
	image  *image.Image
	result *Result
}

// writers write an image in each of the formats.
var writers = map[Format]func(context.Context, *export) error{
	Raw: writeRaw, ELF: writeELF, Flat: writeFlat, Age: writeEncrypted,
}

// Export writes an image in another form. Pages of a sealed image are checked as they are read; zero pages become holes.
// Nothing is at Out unless all of it is.
func Export(ctx context.Context, o Options) (*Result, error) {
	began := time.Now()
	if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	write := writers[o.Format]
	if write == nil {
		return nil, fmt.Errorf("%q is no format to export to: raw, elf, flat and age are", o.Format)
	}
	e := &export{o: o, result: &Result{
		Image: o.Image, Out: o.Out, Format: o.Format, Files: []File{}, LeftOut: []string{},
	}}
	if err := e.open(); err != nil {
		return nil, err
	}
	defer e.image.Close()
	if err := write(ctx, e); err != nil {
		if o.To == nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
			err = image.DiskFull(err, o.Out)
		}
		return nil, image.Interrupted(ctx, err)
	}
	e.result.Seconds = time.Since(began).Seconds()
	return e.result, nil
}

// open opens the image and, unless it is to be encrypted as it is, its base, and makes sure that the seal's sums go with the image.
func (e *export) open() (err error) {
	img, err := image.OpenFile(e.o.Image, nil)
	if err != nil {
		return err
	}
	e.image = &image.Image{File: img}
	if img.Seal != nil {
		err = img.VerifyStream()
	}
	if err == nil && img.BaseID() != nil && e.o.Format != Age {
		e.image.Base, err = image.OpenBaseOf(img, e.o.Base)
	}
	if err != nil {
		e.image.Close()
		return fmt.Errorf("%s: %w", e.o.Image, err)
	}
	return nil
}
