// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"bufio"
	"context"
	"errors"
	"io"
	"path/filepath"

	"filippo.io/age"

	"github.com/ramjet-vm/ramjet/directio"
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
		o := VerifyOptions{Channels: e.Channels, Direct: e.Direct, Progress: e.Progress}
		if _, err := verifyOpened(ctx, e.image.openedImage, o); err != nil {
			return err
		}
		e.result.ID = e.image.Seal.ID.String()
	}
	st, err := e.image.file.Stat()
	if err != nil {
		return err
	}
	extents, err := dataExtents(e.image.file, st.Size())
	if err != nil {
		return err
	}
	if e.To != nil {
		to := &counted{w: e.To}
		err := e.encrypt(ctx, to, st.Size(), extents)
		e.result.Files = append(e.result.Files, ExportFile{Path: e.Out, Bytes: to.n})
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
	moved := e.Progress.moving("encrypting", total)
	buf := make([]byte, copyUnit)
	err = sparseTar(w, filepath.Base(e.image.path), size, extents, func(x extent) error {
		for off, end := x.off, x.off+x.n; off < end; {
			p := buf[:min(copyUnit, end-off)]
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := e.image.file.ReadAt(p, off); err != nil {
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

// moving begins a phase in which as many bytes are moved as are dealt with; moved counts them.
func (p *Progress) moving(phase string, total int64) (moved func(int)) {
	if p == nil {
		return func(int) {}
	}
	p.phase(phase)
	p.Done.Store(0)
	p.Bytes.Store(0)
	p.Total.Store(total)
	return func(n int) {
		p.Done.Add(int64(n))
		p.Bytes.Add(int64(n))
	}
}
