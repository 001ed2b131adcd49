// SPDX-License-Identifier: Apache-2.0

package export

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
)

// file makes a file of that size, which write fills. The file gets its name, durably, only when write has succeeded. block is the
// block whose memory the file is, if it is one's.
func (e *export) file(path, block string, size int64, write func(*directio.File) error) error {
	if e.o.To != nil {
		return e.stream(block, size, write)
	}
	t, err := image.NewTarget(path, e.o.Force, nil)
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
	st, err := t.File.Stat()
	if err != nil {
		return err
	}
	e.result.Files = append(e.result.Files, File{path, block, st.Size()})
	_, err = t.Publish(false)
	return err
}

// stream makes the file without a name in the directory for temporary files, and copies it to Options.To when it is whole, since pages
// come in no order.
func (e *export) stream(block string, size int64, write func(*directio.File) error) error {
	scratch, err := image.Scratch(os.TempDir(), nil)
	if err != nil {
		return err
	}
	f, err := directio.NewFile(scratch, nil)
	if err != nil {
		return errors.Join(err, scratch.Close())
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(size), write(f)); err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		_, err = io.Copy(e.o.To, io.NewSectionReader(f, 0, st.Size()))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.o.Out, err)
	}
	e.result.Files = append(e.result.Files, File{e.o.Out, block, st.Size()})
	return nil
}

// scratchDir is the directory of files that are needed until the export is done.
func (e *export) scratchDir() string {
	if e.o.To != nil {
		return os.TempDir()
	}
	return filepath.Dir(e.o.Out)
}
