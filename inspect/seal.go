// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// SealOptions are what Seal can be told. Only Image is required.
type SealOptions struct {
	Image    string
	Channels int // 1 to 255; 0: chosen
	Direct   directio.Mode

	Calls    *sys.Calls // the system calls; nil: the kernel's
	Progress *image.Progress
	Log      func(string)
}

// SealResult is what `ramjet seal --json` prints. Sizes are in bytes.
type SealResult struct {
	Image       string  `json:"image"`
	ID          string  `json:"id"`
	Format      string  `json:"format"` // who wrote the image: ramjet, qemu or libvirt
	PagesStored int64   `json:"pages_stored"`
	BytesStored int64   `json:"bytes_stored"`
	SealBytes   int64   `json:"seal_bytes"` // what the file has grown by
	Seconds     float64 `json:"seconds"`
}

// ErrSealed: the image has a seal.
var ErrSealed = errors.New("the image is sealed already")

// Seal adds a seal to an image that QEMU or libvirt wrote, in place. The seal is appended behind the stream's end, where QEMU does not
// look, and counts only when its footer is there, which is written last. Not a byte that was in the file changes, so a VM may run
// from the image meanwhile. If Seal fails it cuts off what it wrote; if it is killed, or the power fails, the image can be sealed again.
func Seal(ctx context.Context, o SealOptions) (*SealResult, error) {
	if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	began := time.Now()
	s, err := openToSeal(o)
	if err != nil {
		return nil, err
	}
	defer s.file.Close()
	m, err := s.describe()
	if err != nil {
		return nil, err
	}
	r, err := s.run(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Image, err)
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// sealing is one Seal under way.
type sealing struct {
	o     SealOptions
	file  *directio.File
	image *mappedram.Image
	was   os.FileInfo // the file as it was opened
}

// openToSeal opens an image that has no seal, and locks it against others that seal it.
func openToSeal(o SealOptions) (*sealing, error) {
	f, err := image.OpenRegular(o.Image)
	if err != nil {
		return nil, err
	}
	f.Close()
	f, err = os.OpenFile(o.Image, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("no permission to write to %s, which is where the seal goes", o.Image)
	}
	if err != nil {
		return nil, err
	}
	s := &sealing{o: o}
	if s.file, err = directio.NewFile(f, s.o.Calls); err == nil {
		err = s.open()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", o.Image, err)
	}
	return s, nil
}

// open locks the file and reads the image's headers.
func (s *sealing) open() (err error) {
	if err := unix.Flock(int(s.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another ramjet is sealing it: %w", err)
	}
	if s.was, err = s.file.Stat(); err != nil {
		return err
	}
	s.image, err = mappedram.Open(s.file, s.was.Size())
	switch {
	case err == nil && s.image.Seal != nil:
		return fmt.Errorf("%w, its id is %s: check it with ramjet verify", ErrSealed, s.image.Seal.ID)
	case err != nil && s.image != nil && s.image.Unfinished:
		if s.o.Log != nil {
			s.o.Log(fmt.Sprintf("there is an unfinished seal at offset %d, which is replaced", s.image.StreamEnd))
		}
		return nil
	}
	return err
}

// describe is the metadata except for what depends on the pages.
func (s *sealing) describe() (*seal.Metadata, error) {
	m := &seal.Metadata{
		// The last write is the best that is known of when the image was made.
		Created: s.was.ModTime().UTC(), Format: s.image.Format,
		RamjetVersion: image.VersionString(), MachineType: s.image.Config.MachineType,
	}
	sections, err := s.image.DeviceSections()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.o.Image, err)
	}
	if state, err := vmstate.RunState(sections); err == nil {
		m.WasRunning = state == "running" || state == "suspended"
	} else if s.image.Libvirt != nil {
		m.WasRunning = s.image.Libvirt.WasRunning
	}
	return m, nil
}

// run reads all pages, and appends the seal.
func (s *sealing) run(ctx context.Context, m *seal.Metadata) (*SealResult, error) {
	reopen := directio.Reopen{File: s.file.File, Calls: s.o.Calls}
	io, err := directio.Chooser{Mode: s.o.Direct, Calls: s.o.Calls}.Choose(reopen, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	s.o.Progress.SetPhase("reading pages")
	params := transfer.Params{Calls: s.o.Calls, Channels: s.o.Channels, Direct: io.Direct, Cached: io.Cached}
	stored, sums, err := image.SumImage(ctx, s.image, reopen, params, image.Beside(s.o.Image, s.o.Calls), s.o.Progress)
	if err != nil {
		return nil, err
	}
	defer sums.Close()
	if err := image.DescribeStream(m, s.image, stored); err != nil {
		return nil, err
	}
	s.o.Progress.SetPhase("sealing")
	id, end, err := s.append(m, stored, sums)
	if err != nil {
		return nil, err
	}
	return &SealResult{
		Image: s.o.Image, ID: id.String(), Format: m.Format, PagesStored: m.TotalStored(),
		BytesStored: m.TotalStored() * mappedram.PageSize, SealBytes: end - s.image.StreamEnd,
	}, nil
}

// append writes the seal durably, or cuts off what was written of it. What another process wrote behind the stream meanwhile is
// not touched.
func (s *sealing) append(m *seal.Metadata, stored []mappedram.Bitmap, sums *transfer.Sums) (id seal.ID, end int64, err error) {
	start := s.image.StreamEnd
	if err := s.unchanged(); err != nil {
		return id, 0, err
	}
	if s.was.Size() > start { // what an interrupted attempt left
		if err := s.file.Truncate(start); err != nil {
			return id, 0, err
		}
	}
	w := &footerLast{file: s.file}
	if id, err = image.Seal(w, start, m, stored, sums); err == nil {
		end, err = w.finish()
	}
	if err == nil {
		err = s.endsAt(end)
	}
	if err != nil && w.end > start && s.endsAt(w.end) == nil {
		err = errors.Join(err, s.file.Truncate(start))
	}
	return id, end, err
}

// errWritten: another process writes to the file.
var errWritten = errors.New("somebody writes to it: try again when that has ended")

// endsAt refuses a file that another process has written to behind a seal that ends at end.
func (s *sealing) endsAt(end int64) error {
	now, err := s.file.Stat()
	if err == nil && now.Size() > end {
		err = errWritten
	}
	return err
}

// unchanged refuses a file that another process has written to since it was opened.
func (s *sealing) unchanged() error {
	now, err := s.file.Stat()
	if err == nil && (now.Size() != s.was.Size() || !now.ModTime().Equal(s.was.ModTime())) {
		err = errWritten
	}
	return err
}

// footerLast writes a seal, whose pieces come from front to end, in an order that leaves a whole seal or a recognisably unfinished one
// when the power fails at any moment: the first piece, with the metadata, is durable before the others are written, and all of them are
// before the footer is.
type footerLast struct {
	file *directio.File
	held []byte // the last bytes so far, at most a footer, which are not in the file yet
	at   int64  // the offset of held
	end  int64  // where the last write ended, or would have if it had not failed; 0: nothing was written
}

func (w *footerLast) WriteAt(p []byte, off int64) (int, error) {
	first := w.held == nil
	if first {
		w.at = off
	}
	b := append(w.held, p...)
	n := max(0, len(b)-seal.FooterSize)
	if err := w.write(b[:n]); err != nil {
		return 0, err
	}
	w.held, w.at = append(make([]byte, 0, len(b)-n), b[n:]...), w.at+int64(n)
	if first {
		return len(p), w.file.Sync()
	}
	return len(p), nil
}

// finish writes the footer and returns where the file ends.
func (w *footerLast) finish() (end int64, err error) {
	if err := w.file.Sync(); err != nil {
		return 0, err
	}
	if err := w.write(w.held); err != nil {
		return 0, err
	}
	return w.end, w.file.Sync()
}

// write writes p at w.at.
func (w *footerLast) write(p []byte) error {
	w.end = w.at + int64(len(p))
	_, err := w.file.WriteAt(p, w.at)
	return err
}
