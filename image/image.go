// SPDX-License-Identifier: Apache-2.0

// Package image is what all rooms share of images: an image and the base it builds on opened and checked as one thing, where each page
// comes from, the checks of pages against their sums, and how an image is written and published.
//
// Everything read from an image is hostile until checked: opening checks headers and seal, and no length or offset of an opened image
// points outside its file. Seals find damage, not malice. Nothing partial is ever taken for an image (publish.go has the argument).
//
//	image.go base.go             open an image, and its base
//	sources.go hot.go stale.go   where pages come from, which were needed last, which are not what they should be
//	verify.go pagecheck.go       check an image, or pages as they are read
//	writer.go make.go            write everything but the pages; make an image of memory at hand
//	target.go publish.go         the file in the making, and how it gets its name
package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// File is an image file, held open for as long as something depends on it.
type File struct {
	*mappedram.Image
	Path       string
	Descriptor *os.File
	Calls      *sys.Calls // nil: the kernel's
}

// Reopen opens the file anew.
func (m *File) Reopen() directio.Reopen { return directio.Reopen{File: m.Descriptor, Calls: m.Calls} }

// Close closes the file.
func (m *File) Close() { m.Descriptor.Close() }

// Image is an image and, if it is a diff, the base that it builds on: together they have every page.
type Image struct {
	*File
	Base *File // nil: the image is whole
}

// Open opens an image and, if it is a diff, its base: at the path base or, if that is empty, where the base was when
// the diff was made.
func Open(path, base string, calls *sys.Calls) (*Image, error) {
	image, err := OpenFile(path, calls)
	if err != nil {
		return nil, err
	}
	m := &Image{File: image}
	switch {
	case image.BaseID() != nil:
		m.Base, err = OpenBaseOf(image, base)
	case base != "":
		err = fmt.Errorf("%s is whole, it builds on no base: leave --base out", path)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Close closes both files.
func (m *Image) Close() {
	m.File.Close()
	if m.Base != nil {
		m.Base.Close()
	}
}

// OpenFile opens an image, and checks its headers and its seal's footer. The image has to be complete.
func OpenFile(path string, calls *sys.Calls) (*File, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		var m *mappedram.Image
		if m, err = mappedram.Open(&directio.File{File: f, Calls: calls}, st.Size()); err == nil {
			return &File{m, path, f, calls}, nil
		}
		err = notAnImage(f, st.Size(), err)
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

// OpenRegular opens a regular file for reading, and refuses everything else: to open a fifo would wait for a writer.
func OpenRegular(path string) (*os.File, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no image %s", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("no permission to read %s", path)
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file, so it is no image", path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("no permission to read %s", path)
	}
	return f, err
}

// OpenAny opens an image, also one that is not complete; incomplete is why it is not.
func OpenAny(path string) (image *File, incomplete, err error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil {
		var m *mappedram.Image
		m, err = mappedram.Open(f, st.Size())
		if err == nil || m != nil && errors.Is(err, mappedram.ErrIncomplete) {
			return &File{Image: m, Path: path, Descriptor: f}, err, nil
		}
		err = notAnImage(f, st.Size(), err)
	}
	f.Close()
	return nil, nil, fmt.Errorf("%s: %w", path, err)
}

// Inherited opens the image at a descriptor that the process which started this one has passed.
func Inherited(fd uintptr) (*File, error) {
	f := os.NewFile(fd, "image")
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := mappedram.Open(f, st.Size())
	if err != nil {
		return nil, err
	}
	return &File{Image: m, Path: f.Name(), Descriptor: f}, nil
}

// NotRestorable is why Ramjet does not restore an image of this configuration, the end of a sentence that begins with its name; "" if it
// does. Streams of x86_64 do not name the size of their pages; those of targets that can have several sizes do (vmstate_target_page_bits).
func NotRestorable(c vmstate.Config) string {
	if c.PageBits == 0 {
		return ""
	}
	return "is of another architecture than x86_64, which is the only one that Ramjet restores: QEMU itself loads it"
}
