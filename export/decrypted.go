// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/export/age"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// importEncrypted makes the image that Export encrypted.
func importEncrypted(ctx context.Context, o *ImportOptions, r *ImportResult) error {
	from := o.From
	if from == nil {
		f, err := openEncrypted(o.Dir)
		if err != nil {
			return err
		}
		defer f.Close()
		from = f
	}
	target, err := image.NewTarget(o.Image, o.Force, nil)
	if err != nil {
		return err
	}
	defer target.Discard()
	size, err := age.Decrypt(ctx, target.File, from, o.Identities, o.Progress)
	if err == nil {
		err = acceptDecrypted(target.File, size, o, r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.Dir, err)
	}
	_, err = target.Publish(false)
	return err
}

// openEncrypted opens a file to be decrypted.
func openEncrypted(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil, fmt.Errorf("%s is a directory, and not encrypted: leave --identity out", path)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s", path)
	}
	return f, err
}

// acceptDecrypted checks that what was decrypted is an image, and fills in the result: whoever knows a recipient can encrypt anything for
// it. For the same reason a recorded command line is taken out, unless it is to be kept; else the image stays as it is, to the byte.
func acceptDecrypted(f *directio.File, size int64, o *ImportOptions, r *ImportResult) error {
	m, err := mappedram.Open(f, size)
	if err == nil && m.Seal != nil {
		err = m.VerifyStream()
	}
	if err != nil {
		return fmt.Errorf("what is encrypted in it: %w", err)
	}
	if s := m.Seal; s != nil {
		id := s.ID
		if (len(s.CommandLine) > 0 || s.Executable != "") && !o.KeepCommandLine {
			r.DroppedCommandLine = true
			if id, err = withoutCommandLine(f, s, filepath.Dir(o.Image)); err != nil {
				return err
			}
		}
		r.ID = id.String()
	}
	for k, b := range m.Blocks {
		if b.Ignored {
			continue
		}
		n, err := m.StoredPages(k)
		if err != nil {
			return fmt.Errorf("what is encrypted in it: %w", err)
		}
		r.PagesStored += n
		r.PagesTotal += b.Pages()
	}
	return nil
}

// withoutCommandLine replaces the seal old of the image in f, which is in the directory dir, by one with the same sums and without the
// recorded command line, and returns the image's new id.
func withoutCommandLine(f *directio.File, old *seal.Seal, dir string) (id seal.ID, err error) {
	if err := old.VerifySums(); err != nil { // else the new seal would vouch for sums that are damaged
		return id, fmt.Errorf("what is encrypted in it: %w", err)
	}
	m := old.Metadata
	m.CommandLine, m.Cwd, m.Executable, m.CommandLineUser, m.Differs, m.Disks = nil, "", "", nil, nil, nil
	// The new seal lies where the old one is read from, so it is made in another file, at the same offsets.
	made, err := image.Scratch(dir, nil)
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	w, err := seal.NewWriter(made, old.Start, &m)
	if err != nil {
		return id, err
	}
	if err := copySums(w, old); err != nil {
		return id, err
	}
	id, end, err := w.Close()
	if err != nil {
		return id, err
	}
	into := io.NewOffsetWriter(f, old.Start)
	if _, err := io.Copy(into, io.NewSectionReader(made, old.Start, end-old.Start)); err != nil {
		return id, err
	}
	return id, f.Truncate(end)
}

// copySums appends all sums of a seal to another.
func copySums(to *seal.Writer, from *seal.Seal) error {
	const some = 32 << 10 // sums at a time
	for block, b := range from.Blocks {
		for first := int64(0); first < b.PagesStored; first += some {
			sums, err := from.Sums(block, int(first), int(min(some, b.PagesStored-first)))
			if err == nil {
				err = to.AppendSums(sums)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
