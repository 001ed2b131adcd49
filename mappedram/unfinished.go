// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bytes"
	"fmt"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// A seal that is added to an image in place grows behind the stream, its footer last. If that is interrupted, the stream
// is as good as before, and so it is if a sealed file was cut within its seal; only where it ends the end of the file
// does not tell any more. It is found by the metadata that the seal begins with, or, if the power failed when the file
// had grown and nothing had reached it yet, by the zeros. Such an image is refused, because
// something happened to it that its owner should know of, but it can be sealed again.

// sealStart is how a seal's metadata begin (seal.Metadata, encoding/json).
const sealStart = `{"format_version":`

const (
	// unfinishedScan is how far behind the memory the metadata of an unfinished seal are sought: many times what device
	// state and description of a large VM take.
	unfinishedScan = 32 << 20
	maxBeginnings  = 16 // candidates; a guest can put some into its devices' state

	// zerosScan is more than what is written of a seal at first.
	zerosScan = 2 << 20
)

// unfinished explains an image whose tail could not be read, if that is because of an unfinished seal.
func (m *Image) unfinished(err error) error {
	if m.Seal != nil {
		return err
	}
	t, ok := m.findUnfinished()
	if !ok {
		return err
	}
	if e := m.setTail(t); e != nil {
		return e
	}
	m.Unfinished, m.StreamEnd = true, t.End
	return fmt.Errorf("%w: the seal that begins at offset %d does not end: ramjet seal was interrupted, or the file was cut; what is before it is whole, so ramjet seal can seal it again", ErrIncomplete, t.End)
}

// findUnfinished finds where the stream ends if an unfinished seal is behind it.
func (m *Image) findUnfinished() (vmstate.Tail, bool) {
	if t, ok := m.findMetadata(); ok {
		return t, true
	}
	return m.findZeros()
}

// findZeros finds the end of a stream behind which there are only zeros. The stream itself may end in some.
func (m *Image) findZeros() (vmstate.Tail, bool) {
	b := make([]byte, 256<<10)
	for end := m.FileSize; end > max(m.RAMEnd, m.FileSize-zerosScan); {
		at := max(m.RAMEnd, end-int64(len(b)))
		p := b[:end-at]
		if readAt(m.r, p, at) != nil {
			break
		}
		n := int64(len(bytes.TrimRight(p, "\x00")))
		if n == 0 {
			end = at
			continue
		}
		for e := at + n; e <= min(at+n+vmstate.FooterSize, m.FileSize); e++ {
			if t, err := vmstate.ParseTail(m.r, m.RAMEnd, e, m.SectionID); err == nil {
				return t, true
			}
		}
		break
	}
	return vmstate.Tail{}, false
}

// findMetadata finds the end of a stream by the metadata of the seal behind it.
func (m *Image) findMetadata() (vmstate.Tail, bool) {
	const step = 256 << 10
	end := min(m.FileSize, m.RAMEnd+unfinishedScan)
	b := make([]byte, step+len(sealStart)-1)
	for at, tried := m.RAMEnd, 0; at < end; at += step {
		p := b[:min(int64(len(b)), end-at)]
		if readAt(m.r, p, at) != nil {
			break
		}
		for k := 0; tried < maxBeginnings; k++ {
			next := bytes.Index(p[k:], []byte(sealStart))
			if next < 0 {
				break
			}
			k += next
			if (at+int64(k))%8 != 0 {
				continue
			}
			tried++
			if t, ok := m.tailBefore(at + int64(k)); ok {
				return t, true
			}
		}
	}
	return vmstate.Tail{}, false
}

// tailBefore parses the tail of a stream that ends at offset at or up to 7 bytes of zero before it.
func (m *Image) tailBefore(at int64) (vmstate.Tail, bool) {
	for end := at; end > max(at-8, m.RAMEnd); end-- {
		if t, err := vmstate.ParseTail(m.r, m.RAMEnd, end, m.SectionID); err == nil {
			return t, true
		}
		var pad [1]byte
		if readAt(m.r, pad[:], end-1) != nil || pad[0] != 0 {
			break
		}
	}
	return vmstate.Tail{}, false
}
