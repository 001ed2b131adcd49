// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bufio"
	"context"
	"errors"
	"io"
	"path/filepath"

	"filippo.io/age"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
)

// errNoRecipients: nobody could read what would be written.
var errNoRecipients = errors.New("encrypted for whom? Give --recipient age1... or --recipients-file FILE")

// copyUnit is how much of a file is in memory when it is encrypted or decrypted, in bytes.
const copyUnit = 1 << 20

// encrypted writes the image's own file, encrypted: a sparse tar archive in what age makes of it. A diff stays a diff. A sealed image
// is verified before.
func (e *export) encrypted(ctx context.Context) error {
	if len(e.Recipients) == 0 {
		return errNoRecipients
	}
	if e.image.Seal != nil {
		o := image.VerifyOptions{Channels: e.Channels, Direct: e.Direct, Progress: e.Progress}
		if _, err := image.VerifyOpened(ctx, e.image.File, o); err != nil {
			return err
		}
		e.result.ID = e.image.Seal.ID.String()
	}
	st, err := e.image.F.Stat()
	if err != nil {
		return err
	}
	extents, err := dataExtents(e.image.F, st.Size())
	if err != nil {
		return err
	}
	if e.To != nil {
		to := &counted{w: e.To}
		err := e.encrypt(ctx, to, st.Size(), extents)
		e.result.Files = append(e.result.Files, File{Path: e.Out, Bytes: to.n})
		return err
	}
	var written int64
	err = e.file(e.Out, "", 0, func(f *directio.File) error {
		if err := e.encrypt(ctx, io.NewOffsetWriter(f, 0), st.Size(), extents); err != nil {
			return err
		}
		made, err := f.Stat()
		if err == nil {
			written = made.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	e.result.Files[0].Bytes = written
	return nil
}

// counted is a writer that counts its bytes.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// encrypt writes these parts of the image to a writer.
func (e *export) encrypt(ctx context.Context, to io.Writer, size int64, extents []extent) error {
	out := bufio.NewWriterSize(to, copyUnit)
	w, err := age.Encrypt(out, e.Recipients...)
	if err != nil {
		return err
	}
	var total int64
	for _, x := range extents {
		total += x.n
	}
	moved := e.Progress.Moving("encrypting", total)
	buf := make([]byte, copyUnit)
	err = sparseTar(w, filepath.Base(e.image.Path), size, extents, func(x extent) error {
		for off, end := x.off, x.off+x.n; off < end; {
			p := buf[:min(copyUnit, end-off)]
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := e.image.F.ReadAt(p, off); err != nil {
				return err
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
			off += int64(len(p))
			moved(len(p))
		}
		return nil
	})
	return errors.Join(err, w.Close(), out.Flush())
}
