// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Extent is a range of a file.
type Extent struct {
	Offset int64 // bytes from the file's start
	Length int64 // bytes
}

// End returns the offset behind the range.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Tail says where things are that follow the pages of a mapped-ram stream:
//
//	be64 10, footer                    the end of START(ram)
//	FULL ...                           Setup, usually none: what a device sends before memory's parts (virtio-mem)
//	PART(ram), END(ram), COMMAND       any number of each; the parts hold only be64 10
//	FULL ...                           Sections
//	00
//	06 be32 JSON                       Description, if there is one
type Tail struct {
	Setup       Extent // Length 0 where there is none
	Sections    Extent
	Description Extent // the JSON alone; Length 0 without one
	End         int64  // where the stream ends
}

// ParseTail reads the tail that begins at offset at of r, for a stream that ends at offset end, with ram the id of the
// RAM section. Where the device sections end only the end of the stream tells, so end must be exact.
//
// Errors are ErrTruncated where a save was cut off or the stream does not reach to end as it should, ErrInParts,
// ErrCorrupt, or those of r.
func ParseTail(r io.ReaderAt, at, end int64, ram uint32) (Tail, error) {
	if at < 0 || end < at {
		return Tail{}, fmt.Errorf("%w: it should end at %d and goes on at %d", ErrTruncated, end, at)
	}
	p := &tailReader{b: newTailBuffer(io.NewSectionReader(r, at, end-at)), at: at, ram: ram}
	if err := p.parts(); err != nil {
		return Tail{}, err
	}
	t := Tail{Setup: p.setup, Sections: Extent{Offset: p.at}, End: end}
	var err error
	if t.Description, err = findDescription(r, p.at, end); err != nil {
		return Tail{}, err
	}
	t.Sections.Length = end - 1 - p.at
	if t.Description.Length > 0 {
		t.Sections.Length = t.Description.Offset - descriptionHead - 1 - p.at
	}
	if t.Sections.Length > MaxDeviceState {
		return Tail{}, fmt.Errorf("%w: %d bytes of device state, more than %d", ErrCorrupt, t.Sections.Length, MaxDeviceState)
	}
	return t, nil
}

func newTailBuffer(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, MaxSetup) }

// descriptionHead is the length of the type byte and the length before the JSON.
const descriptionHead = 5

type tailReader struct {
	b     *bufio.Reader
	at    int64
	ram   uint32
	begun bool // a part of the RAM section was read
	setup Extent
}

// take reads exactly n bytes, at most 4096.
func (p *tailReader) take(n int) ([]byte, error) {
	b, err := p.b.Peek(n)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends behind the memory, at offset %d", ErrTruncated, p.at+int64(len(b)))
	}
	if err != nil {
		return nil, err
	}
	b = bytes.Clone(b)
	_, err = p.b.Discard(n)
	p.at += int64(n)
	return b, err
}

// parts reads up to the first device section, or the end of the state where there is none.
func (p *tailReader) parts() error {
	if err := p.endOfPart(); err != nil {
		return err
	}
	for {
		b, err := p.b.Peek(1)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(b) == 0 {
			return fmt.Errorf("%w: it ends behind the memory, at offset %d", ErrTruncated, p.at)
		}
		if b[0] == TypeFull && !p.begun && p.setup.Length == 0 {
			if err := p.skipSetup(); err != nil {
				return err
			}
			if p.setup.Length > 0 {
				continue
			}
		}
		switch b[0] {
		case TypeFull, TypeEOF:
			return nil
		case TypePart, TypeEnd:
			err = p.part()
		case TypeCommand:
			err = p.command()
		case TypeStart:
			err = p.foreign()
		default:
			err = fmt.Errorf("%w: byte %#02x at offset %d, where a section should begin", ErrCorrupt, b[0], p.at)
		}
		if err != nil {
			return err
		}
	}
}

func (p *tailReader) part() error {
	b, err := p.take(5)
	if err != nil {
		return err
	}
	p.begun = true
	if id := binary.BigEndian.Uint32(b[1:]); id != p.ram {
		return fmt.Errorf("%w: a part of section %d at offset %d, the memory is section %d", ErrCorrupt, id, p.at-5, p.ram)
	}
	return p.endOfPart()
}

// endOfPart reads the flag that ends a part of the RAM section, and the footer.
func (p *tailReader) endOfPart() error {
	b, err := p.take(8 + FooterSize)
	if err != nil {
		return err
	}
	at := p.at - int64(len(b))
	want := AppendFooter(binary.BigEndian.AppendUint64(nil, RAMEndOfSection), p.ram)
	switch {
	case bytes.Equal(b, want):
		return nil
	case bytes.Equal(b, make([]byte, len(b))):
		// A save that dies before its end leaves a hole here.
		return fmt.Errorf("%w: nothing was written at offset %d, behind the memory", ErrTruncated, at)
	case !bytes.Equal(b[:8], want[:8]):
		return fmt.Errorf("%w: flags %#x at offset %d, where the memory should end", ErrCorrupt, b[:8], at)
	}
	return fmt.Errorf("%w: no footer of section %d at offset %d", ErrCorrupt, p.ram, at+8)
}

func (p *tailReader) command() error {
	b, err := p.take(5)
	if err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	k, err := p.b.Discard(n)
	p.at += int64(k)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends in a command, at offset %d", ErrTruncated, p.at)
	}
	return err
}

// skipSetup passes over the FULL sections before the first part of the RAM section, and does nothing where the sections
// are not followed by such a part: those are the devices of a stream whose RAM section has no parts.
func (p *tailReader) skipSetup() error {
	b, err := p.b.Peek(MaxSetup)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	n, ok := setupLength(b, p.ram)
	if !ok {
		return nil
	}
	p.setup = Extent{Offset: p.at, Length: int64(n)}
	_, err = p.b.Discard(n)
	p.at += int64(n)
	return err
}

// setupLength returns the length of the FULL sections with which b begins; ok if a part of section ram, a section in parts
// or a command follows them in b. The end of a section is the first footer with its id behind which one of these or another
// FULL section begins.
func setupLength(b []byte, ram uint32) (length int, ok bool) {
	for at := 0; ; {
		h, n, err := ParseHead(b[at:])
		if err != nil {
			return 0, false
		}
		if h.Type == TypeStart {
			return at, true
		}
		footer := AppendFooter(nil, h.ID)
		for at += n; ; at++ {
			k := bytes.Index(b[at:], footer)
			if k < 0 {
				return 0, false
			}
			at += k
			if rest := b[at+FooterSize:]; followed(rest) {
				at += FooterSize
				break
			} else if endsSetup(rest, ram) {
				return at + FooterSize, true
			}
		}
	}
}

// endsSetup reports whether a section in parts, a part of section ram or a command begins at b.
func endsSetup(b []byte, ram uint32) bool {
	if len(b) < 5 {
		return false
	}
	switch b[0] {
	case TypePart, TypeEnd:
		return binary.BigEndian.Uint32(b[1:]) == ram
	case TypeCommand:
		return true
	}
	h, _, err := ParseHead(b)
	return err == nil && h.Type == TypeStart
}

// foreign explains a section in parts that is not memory: its length is known only to the device.
func (p *tailReader) foreign() error {
	b, err := p.b.Peek(6 + 255 + 8)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	h, _, err := ParseHead(b)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: it has the section %q, whose length only QEMU knows; load it with QEMU itself", ErrInParts, h.Name)
}

// findDescription finds the description in r, between the offsets from and end. It seeks backwards from the end for
// a length that reaches exactly there; JSON text has no byte 06, so it cannot be mistaken for its own head.
func findDescription(r io.ReaderAt, from, end int64) (Extent, error) {
	last := make([]byte, 1)
	if err := readAt(r, last, end-1); err != nil {
		return Extent{}, err
	}
	if last[0] == TypeEOF {
		return Extent{}, checkEnd(r, from, end-1)
	}
	low := max(from, end-MaxDescription-descriptionHead)
	const step = 64 << 10
	for hi := end; hi > low; {
		lo := max(low, hi-step)
		// A head may begin in one piece and end in the one above it.
		b := make([]byte, min(end, hi+descriptionHead-1)-lo)
		if err := readAt(r, b, lo); err != nil {
			return Extent{}, err
		}
		for k := len(b) - descriptionHead; k >= 0; k-- {
			at := lo + int64(k) + descriptionHead
			n := int64(binary.BigEndian.Uint32(b[k+1:]))
			if b[k] == TypeDescription && n > 0 && at+n == end {
				return Extent{at, n}, checkEnd(r, from, at-descriptionHead-1)
			}
		}
		hi = lo
	}
	return Extent{}, fmt.Errorf("%w: its end is missing, at offset %d", ErrTruncated, end)
}

// checkEnd checks that the state ends at offset at: the byte 00, behind a footer unless there are no sections.
func checkEnd(r io.ReaderAt, from, at int64) error {
	if at == from {
		var b [1]byte
		if err := readAt(r, b[:], at); err != nil {
			return err
		}
		if b[0] == TypeEOF {
			return nil
		}
	}
	if at >= from+FooterSize {
		b := make([]byte, FooterSize+1)
		if err := readAt(r, b, at-FooterSize); err != nil {
			return err
		}
		if b[0] == TypeFooter && b[FooterSize] == TypeEOF {
			return nil
		}
	}
	return fmt.Errorf("%w: the device state does not end at offset %d", ErrTruncated, at)
}

// readAt reads all of b; the end of the file is a truncated stream.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, ended, err := sys.ReadAll(r, b, at)
	if ended {
		return fmt.Errorf("%w: it ends at offset %d", ErrTruncated, at+int64(n))
	}
	return err
}
