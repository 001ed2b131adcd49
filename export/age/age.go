// SPDX-License-Identifier: Apache-2.0

// Package age makes encrypted copies of files with holes, and files of such copies again. A copy is a sparse tar archive with one file
// (sparsetar.go), encrypted with age (age-encryption.org), so that `age -d` and `tar -x` read it too.
//
// Encryption hides a copy's content and shows every change to it. It does not show who made the copy: whoever knows a recipient can
// encrypt anything for it. What Decrypt gives back has to be checked as a file from a stranger is.
//
// This is the only package that imports filippo.io/age.
package age

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
)

const (
	// copyUnit is how much of a file is in memory when it is encrypted or decrypted, in bytes.
	copyUnit = 1 << 20
	// maxHeader bounds age's header, which is read into memory: some thousands of recipients, in bytes.
	maxHeader = 1 << 20
	// maxTarEnd bounds what follows the file in the archive: zeros, 10 KiB with GNU tar.
	maxTarEnd = 1 << 20
)

// Encrypt writes an encrypted copy of a file to a writer. name is the file's name in the archive.
func Encrypt(ctx context.Context, to io.Writer, from *os.File, name string, keys []Recipient, progress *image.Progress) error {
	st, err := from.Stat()
	if err != nil {
		return err
	}
	extents, err := dataExtents(from, st.Size())
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(to, copyUnit)
	w, err := age.Encrypt(out, keys...)
	if err != nil {
		return err
	}
	moved := progress.Moving("encrypting", totalBytes(extents))
	buf := make([]byte, copyUnit)
	err = sparseTar(w, name, st.Size(), extents, func(x extent) error {
		return x.pieces(ctx, buf, func(p []byte, off int64) error {
			if _, err := from.ReadAt(p, off); err != nil {
				return err
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
			moved(len(p))
			return nil
		})
	})
	return errors.Join(err, w.Close(), out.Flush())
}

// Decrypt reads an encrypted copy and writes the file, holes included, into to, which has to be empty. It returns the file's size. After
// an error the content of to is of no use. The error matches mappedram.ErrDamaged if from was cut off or changed, and mappedram.ErrNotImage if
// something else than a copy of Encrypt's is encrypted in it.
func Decrypt(ctx context.Context, to *directio.File, from io.Reader, keys []Identity, progress *image.Progress) (size int64, err error) {
	in := &input{r: bufio.NewReaderSize(from, copyUnit), headerLeft: maxHeader}
	is, err := IsEncrypted(in.r)
	if err == nil && !is {
		err = errors.New("it is not encrypted with age")
	}
	if err != nil {
		return 0, err
	}
	plain, err := age.Decrypt(in, keys...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return 0, errors.New("it is encrypted for others: none of the identities is one of its recipients'")
	case err != nil:
		return 0, in.explain(err)
	}
	in.headerLeft = -1
	if size, err = unpack(ctx, to, plain, progress); err != nil {
		return 0, in.explain(err)
	}
	return size, nil
}

// unpack makes the file of the archive. Errors that are not of the archive are outputErrors.
func unpack(ctx context.Context, to *directio.File, plain io.Reader, progress *image.Progress) (size int64, err error) {
	size, extents, err := sparseHeader(plain)
	if err != nil {
		return 0, err
	}
	if err := to.Truncate(size); err != nil {
		return 0, outputError{err}
	}
	moved := progress.Moving("decrypting", totalBytes(extents))
	buf := make([]byte, copyUnit)
	for _, x := range extents {
		err := x.pieces(ctx, buf, func(p []byte, off int64) error {
			if _, err := io.ReadFull(plain, p); err != nil {
				return err
			}
			if _, err := to.WriteAt(p, off); err != nil {
				return outputError{err}
			}
			moved(len(p))
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	// Only the end of age's stream shows that nothing was cut off.
	switch _, err := io.CopyN(io.Discard, plain, maxTarEnd); err {
	case io.EOF:
		return size, nil
	case nil:
		return 0, errNotSparseTar
	default:
		return 0, err
	}
}

// outputError marks an error that has another cause than the encrypted copy that is read.
type outputError struct{ err error }

func (e outputError) Error() string { return e.err.Error() }
func (e outputError) Unwrap() error { return e.err }

// input reads the encrypted copy, and no more than maxHeader bytes until age's header is read.
type input struct {
	r          *bufio.Reader
	headerLeft int   // how many bytes of the header may still be read; negative: the header is read
	err        error // of reading the copy
}

var errLongHeader = fmt.Errorf("%w: age's header is longer than %d bytes", mappedram.ErrUnsupported, maxHeader)

func (in *input) Read(p []byte) (int, error) {
	if in.headerLeft == 0 {
		in.err = errLongHeader
		return 0, in.err
	}
	if in.headerLeft > 0 {
		p = p[:min(len(p), in.headerLeft)]
	}
	n, err := in.r.Read(p)
	if in.headerLeft > 0 {
		in.headerLeft -= n
	}
	if err != nil && err != io.EOF {
		in.err = err
	}
	return n, err
}

// explain returns what is wrong with a copy that cannot be decrypted. age's own errors speak of chunks and nonces.
func (in *input) explain(err error) error {
	var output outputError
	switch {
	case errors.As(err, &output):
		return output.err
	case in.err != nil:
		return in.err
	case errors.Is(err, errNotSparseTar):
		return fmt.Errorf("%w: %w", mappedram.ErrNotImage, err)
	}
	return fmt.Errorf("%w: it was cut off or changed since it was encrypted", mappedram.ErrDamaged)
}
