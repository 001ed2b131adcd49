// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/export/age"
	"github.com/ramjet-vm/ramjet/image"
)

// errNoRecipients: nobody could read what would be written.
var errNoRecipients = errors.New("encrypted for whom? Give --recipient age1... or --recipients-file FILE")

// writeEncrypted writes the image's own file, encrypted. A diff stays a diff. A sealed image is verified first.
func writeEncrypted(ctx context.Context, e *export) error {
	if len(e.o.Recipients) == 0 {
		return errNoRecipients
	}
	if e.image.Seal != nil {
		o := image.VerifyOptions{Channels: e.o.Channels, Direct: e.o.Direct, Progress: e.o.Progress}
		if _, err := image.VerifyOpened(ctx, e.image.File, o); err != nil {
			return err
		}
		e.result.ID = e.image.Seal.ID.String()
	}
	encrypt := func(to io.Writer) error {
		return age.Encrypt(ctx, to, e.image.Descriptor, filepath.Base(e.image.Path), e.o.Recipients, e.o.Progress)
	}
	if e.o.To == nil {
		return e.file(e.o.Out, "", 0, func(f *directio.File) error { return encrypt(io.NewOffsetWriter(f, 0)) })
	}
	to := &countingWriter{w: e.o.To} // the copy comes from front to back, so it needs no file first
	err := encrypt(to)
	e.result.Files = append(e.result.Files, File{Path: e.o.Out, Bytes: to.n})
	return err
}

// countingWriter counts the bytes that are written to w.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
