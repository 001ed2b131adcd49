// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

// maxAgeHeader bounds age's header, which is read into memory: some thousands of recipients, in bytes.
const maxAgeHeader = 1 << 20

// maxTarEnd bounds what follows the image in the archive: zeros, 10 KiB with GNU tar.
const maxTarEnd = 1 << 20

// decrypted makes the image that Export encrypted.
func (i *Importing) decrypted(ctx context.Context, began time.Time) (*ImportResult, error) {
	from := i.From
	if from == nil {
		f, err := openEncrypted(i.Dir)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	var err error
	if i.target, err = image.NewTarget(i.Image, i.Force); err != nil {
		return nil, err
	}
	if err := i.decrypt(ctx, from); err != nil {
		return nil, fmt.Errorf("%s: %w", i.Dir, err)
	}
	if _, err := i.target.Publish(false); err != nil {
		return nil, err
	}
	i.Result.Seconds = time.Since(began).Seconds()
	return i.Result, nil
}

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

// decrypt fills the target.
func (i *Importing) decrypt(ctx context.Context, f io.Reader) error {
	in := &ageInput{r: bufio.NewReaderSize(f, copyUnit), left: maxAgeHeader}
	is, err := encrypted(in.r)
	if err == nil && !is {
		err = errors.New("it is not encrypted with age")
	}
	if err != nil {
		return err
	}
	plain, err := age.Decrypt(in, i.Identities...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return errors.New("it is encrypted for others: none of the identities is one of its recipients'")
	case err != nil:
		return in.why(err)
	}
	in.left = -1
	size, extents, err := sparseHeader(plain)
	if err != nil {
		return in.why(err)
	}
	if err := i.extents(ctx, plain, size, extents); err != nil {
		return in.why(err)
	}
	// Only the end of it shows that nothing was cut off.
	switch _, err := io.CopyN(io.Discard, plain, maxTarEnd); err {
	case io.EOF:
		return i.look(size)
	case nil:
		return in.why(errNotSparseTar)
	default:
		return in.why(err)
	}
}

// extents makes the target a file of that size, with holes but for extents.
func (i *Importing) extents(ctx context.Context, plain io.Reader, size int64, extents []extent) error {
	w := i.target.File
	if err := w.Truncate(size); err != nil {
		return notInput{err}
	}
	var total int64
	for _, x := range extents {
		total += x.n
	}
	moved := i.Progress.Moving("decrypting", total)
	buf := make([]byte, copyUnit)
	for _, x := range extents {
		for off, end := x.off, x.off+x.n; off < end; {
			p := buf[:min(copyUnit, end-off)]
			if err := ctx.Err(); err != nil {
				return notInput{err}
			}
			if _, err := io.ReadFull(plain, p); err != nil {
				return err
			}
			if _, err := w.WriteAt(p, off); err != nil {
				return notInput{err}
			}
			off += int64(len(p))
			moved(len(p))
		}
	}
	return nil
}

// notInput marks what has another cause than the file that is read.
type notInput struct{ error }

func (e notInput) Unwrap() error { return e.error }

// look opens what was decrypted as an image: whoever knows a recipient can encrypt anything for it.
func (i *Importing) look(size int64) error {
	m, err := mappedram.Open(i.target.File, size)
	if err != nil {
		return fmt.Errorf("what is encrypted in it: %w", err)
	}
	if m.Seal != nil {
		if err := m.VerifyStream(); err != nil {
			return fmt.Errorf("what is encrypted in it: %w", err)
		}
		id, err := i.withoutCommandLine(m.Seal)
		if err != nil {
			return err
		}
		i.Result.ID = id.String()
	}
	for k, b := range m.Blocks {
		if b.Ignored {
			continue
		}
		n, err := m.StoredPages(k)
		if err != nil {
			return fmt.Errorf("what is encrypted in it: %w", err)
		}
		i.Result.PagesStored += n
		i.Result.PagesTotal += b.Pages()
	}
	i.Result.BytesStored = i.Result.PagesStored * mappedram.PageSize
	return nil
}

// ageInput is the encrypted file. Until left is negative it is the header that is read, of so many bytes at most.
type ageInput struct {
	r    *bufio.Reader
	left int
	err  error // of the file itself
}

var errAgeHeader = fmt.Errorf("%w: age's header is longer than %d bytes", mappedram.ErrUnsupported, maxAgeHeader)

func (in *ageInput) Read(p []byte) (int, error) {
	if in.left == 0 {
		in.err = errAgeHeader
		return 0, in.err
	}
	if in.left > 0 {
		p = p[:min(len(p), in.left)]
	}
	n, err := in.r.Read(p)
	if in.left > 0 {
		in.left -= n
	}
	if err != nil && err != io.EOF {
		in.err = err
	}
	return n, err
}

// why says what is wrong with a file that cannot be decrypted. age's own words for it are of chunks and nonces.
func (in *ageInput) why(err error) error {
	var other notInput
	switch {
	case errors.As(err, &other):
		return other.error
	case in.err != nil:
		return in.err
	case errors.Is(err, errNotSparseTar):
		return fmt.Errorf("%w: %w", mappedram.ErrNotImage, err)
	}
	return fmt.Errorf("%w: it was cut off or changed since it was encrypted", mappedram.ErrDamaged)
}

// withoutCommandLine takes the recorded command line out of the image that was decrypted, whose seal is old: anybody can have
// encrypted it. With KeepCommandLine, or if there is none, the image stays as it is, to the byte. The image's id is returned.
func (i *Importing) withoutCommandLine(old *seal.Seal) (id seal.ID, err error) {
	if len(old.CommandLine) == 0 && old.Executable == "" || i.KeepCommandLine {
		return old.ID, nil
	}
	i.Result.DroppedCommandLine = true
	if err := old.VerifySums(); err != nil { // else the new seal would vouch for sums that are damaged
		return id, fmt.Errorf("what is encrypted in it: %w", err)
	}
	m := old.Metadata
	m.CommandLine, m.Cwd, m.Executable, m.CommandLineUser, m.Differs, m.Disks = nil, "", "", nil, nil, nil
	// The new seal lies where the old one is read from, so it is made in another file, at the same offsets.
	made, err := image.Scratch(filepath.Dir(i.Image))
	if err != nil {
		return id, notInput{err}
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	w, err := seal.NewWriter(made, old.Start, &m)
	if err != nil {
		return id, err
	}
	const some = 32 << 10 // sums at a time
	for block, b := range m.Blocks {
		for first := int64(0); first < b.PagesStored; first += some {
			sums, err := old.Sums(block, int(first), int(min(some, b.PagesStored-first)))
			if err == nil {
				err = w.AppendSums(sums)
			}
			if err != nil {
				return id, notInput{err}
			}
		}
	}
	id, end, err := w.Close()
	if err != nil {
		return id, notInput{err}
	}
	into := io.NewOffsetWriter(i.target.File, old.Start)
	if _, err := io.Copy(into, io.NewSectionReader(made, old.Start, end-old.Start)); err != nil {
		return id, notInput{err}
	}
	if err := i.target.File.Truncate(end); err != nil {
		return id, notInput{err}
	}
	return id, nil
}
