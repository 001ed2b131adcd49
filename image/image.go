// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// File is an image file, held open for as long as something depends on it.
type File struct {
	*mappedram.Image
	Path string
	F    *os.File
}

// Image is an image and, if it is a diff, the base that it builds on: together they have every page.
type Image struct {
	*File
	Base *File // nil: the image is whole
}

// Open opens an image and, if it is a diff, its base: at the path given, else where the diff says that it is.
func Open(path, base string) (*Image, error) {
	image, err := OpenFile(path)
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
	m.F.Close()
	if m.Base != nil {
		m.Base.F.Close()
	}
}

// OpenFile opens and checks an image, whole or not at all.
func OpenFile(path string) (*File, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		var m *mappedram.Image
		if m, err = mappedram.Open(&directio.File{File: f}, st.Size()); err == nil {
			return &File{m, path, f}, nil
		}
		err = notAnImage(f, st.Size(), err)
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

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

// OpenAny is openImage for somebody who also wants to see an image that is not complete, and why it is not.
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
			return &File{Image: m, Path: path, F: f}, err, nil
		}
		err = notAnImage(f, st.Size(), err)
	}
	f.Close()
	return nil, nil, fmt.Errorf("%s: %w", path, err)
}

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
	return &File{m, f.Name(), f}, nil
}
