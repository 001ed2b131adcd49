// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// openedImage is an image file, held open for as long as something depends on it.
type openedImage struct {
	*mappedram.Image
	path string
	file *os.File
}

// imageAndBase is an image and, if it is a diff, the base that it builds on: together they have every page.
type imageAndBase struct {
	*openedImage
	base *openedImage // nil: the image is whole
}

// openWithBase opens an image and, if it is a diff, its base: at the path given, else where the diff says that it is.
func openWithBase(path, base string) (*imageAndBase, error) {
	image, err := openImage(path)
	if err != nil {
		return nil, err
	}
	m := &imageAndBase{openedImage: image}
	switch {
	case image.baseID() != nil:
		m.base, err = openBaseOf(image, base)
	case base != "":
		err = fmt.Errorf("%s is whole, it builds on no base: leave --base out", path)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// close closes both files.
func (m *imageAndBase) close() {
	m.file.Close()
	if m.base != nil {
		m.base.file.Close()
	}
}

// openImage opens and checks an image, whole or not at all.
func openImage(path string) (*openedImage, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		var m *mappedram.Image
		if m, err = mappedram.Open(&directio.File{File: f}, st.Size()); err == nil {
			return &openedImage{m, path, f}, nil
		}
		err = notAnImage(f, st.Size(), err)
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

func openRegular(path string) (*os.File, error) {
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
