// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// FindEnd finds where the stream ends whose tail begins at offset at of r, which goes on after it: a block device. limit is r's length;
// ram is the id of the RAM section.
//
// No length stands in the stream (Sections), so the end is sought: a device's section ends at the first footer with its id behind
// which another one begins, or the end of the state with what QEMU writes behind it, the description, or Ramjet, zeros. A guest can
// have bytes like that in its devices; the state ends too early then, and QEMU refuses it.
func FindEnd(r io.ReaderAt, at, limit int64, ram uint32) (int64, error) {
	for most := int64(1 << 20); ; most *= 16 {
		n := min(most, MaxDeviceState, limit-at)
		if n <= 0 {
			return 0, fmt.Errorf("%w: it ends behind the memory, at offset %d", ErrTruncated, at)
		}
		b := make([]byte, n)
		if err := readAt(r, b, at); err != nil {
			return 0, err
		}
		p := &tailReader{b: newTailBuffer(bytes.NewReader(b)), at: 0, ram: ram}
		err := p.parts()
		if err == nil {
			end, ok := endOfState(b, int(p.at))
			if ok {
				return at + int64(end), nil
			}
			err = fmt.Errorf("%w: no end of the device state behind offset %d", ErrTruncated, at)
		}
		if !errors.Is(err, ErrTruncated) || n < most {
			return 0, err
		}
	}
}

// EndZeros is how many zeros, in bytes, are written behind a stream that does not end with its file.
const EndZeros = 4096

// endOfState finds the end of the run of sections that begins at b[at:], and of what belongs behind it.
func endOfState(b []byte, at int) (end int, ok bool) {
	for at < len(b) && b[at] != TypeEOF {
		h, n, err := ParseHead(b[at:])
		if err != nil || h.Type != TypeFull {
			return 0, false
		}
		footer := AppendFooter(nil, h.ID)
		for at += n; ; at++ {
			k := bytes.Index(b[at:], footer)
			if k < 0 {
				return 0, false
			}
			at += k
			rest := b[at+FooterSize:]
			if _, ok := endOfStream(rest); ok || followed(rest) {
				at += FooterSize
				break
			}
		}
	}
	n, ok := endOfStream(b[min(at, len(b)):])
	return at + n, ok
}

// endOfStream returns the length of a stream's last bytes: the end of the state, and the description if there is one. ok says that it
// looks like that.
func endOfStream(b []byte) (n int, ok bool) {
	if len(b) == 0 || b[0] != TypeEOF {
		return 0, false
	}
	if len(b) > descriptionHead && b[1] == TypeDescription {
		n := int64(binary.BigEndian.Uint32(b[2:]))
		text := b[1+descriptionHead:]
		return 1 + descriptionHead + int(n), n <= int64(len(text)) && json.Valid(text[:n])
	}
	behind := b[1:min(len(b), 1+EndZeros)]
	return 1, len(bytes.TrimLeft(behind, "\x00")) == 0
}
