// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"
)

// footer is the last FooterSize bytes of a sealed file; the package comment draws it.
type footer struct {
	start        int64 // S
	metadata     int64 // M
	metadataSize int64 // m
	sums         int64 // U
	count        int64 // n
	metadataSum  uint64
	sumsSum      uint64
	id           ID
}

func (f *footer) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, FooterSize)
	b = append(b, magic...)
	b = le.AppendUint32(b, Version)
	b = le.AppendUint32(b, FooterSize)
	for _, v := range []int64{f.start, f.metadata, f.metadataSize, f.sums, f.count} {
		b = le.AppendUint64(b, uint64(v))
	}
	b = le.AppendUint64(b, f.metadataSum)
	b = le.AppendUint64(b, f.sumsSum)
	b = append(b, f.id[:]...)
	b = append(b, make([]byte, FooterSize-8-len(b))...)
	return le.AppendUint64(b, xxh3.Hash(b))
}

// decode reads the footer of a file of the given size, and checks that the parts it names lie one behind the other and
// end where it begins: no byte of the seal is in none of them.
func decode(b []byte, size int64) (*footer, error) {
	le := binary.LittleEndian
	if alike := matching(b[:len(magic)]); alike < len(magic) {
		// Bytes that are nearly the magic are a seal with a flipped bit, not an image without one.
		if alike >= len(magic)-2 && le.Uint32(b[12:]) == FooterSize {
			return nil, fmt.Errorf("%w: its last %d bytes begin with %q, not %q", ErrDamaged, FooterSize, b[:len(magic)], magic)
		}
		return nil, ErrNoSeal
	}
	if sum := xxh3.Hash(b[:FooterSize-8]); sum != le.Uint64(b[FooterSize-8:]) {
		return nil, fmt.Errorf("%w: the checksum over its last %d bytes does not hold", ErrDamaged, FooterSize)
	}
	if v := le.Uint32(b[8:]); v > Version {
		return nil, fmt.Errorf("%w: layout version %d, this one knows %d", ErrNewer, v, Version)
	} else if v == 0 || le.Uint32(b[12:]) != FooterSize {
		return nil, fmt.Errorf("%w: layout version %d with a footer of %d bytes", ErrDamaged, v, le.Uint32(b[12:]))
	}
	at := func(i int) int64 { return int64(le.Uint64(b[i:])) }
	f := &footer{
		start: at(16), metadata: at(24), metadataSize: at(32), sums: at(40), count: at(48),
		metadataSum: le.Uint64(b[56:]), sumsSum: le.Uint64(b[64:]), id: ID(b[72:104]),
	}
	end := size - FooterSize
	switch {
	case f.start < 0 || f.start > end || f.metadata != align(f.start):
		return nil, fmt.Errorf("%w: it begins at %d in a file of %d bytes and its metadata at %d", ErrDamaged, f.start, size, f.metadata)
	case f.metadataSize < 0 || f.metadataSize > MaxMetadata || f.sums != align(f.metadata+f.metadataSize) || f.sums > end:
		return nil, fmt.Errorf("%w: %d bytes of metadata at %d and sums at %d in a file of %d bytes", ErrDamaged, f.metadataSize, f.metadata, f.sums, size)
	case f.count < 0 || f.count > (end-f.sums)/8 || f.sums+8*f.count != end:
		return nil, fmt.Errorf("%w: %d sums at %d in a file of %d bytes", ErrDamaged, f.count, f.sums, size)
	}
	return f, nil
}

// matching counts the bytes that are as in the magic.
func matching(b []byte) int {
	n := 0
	for i := range b {
		if b[i] == magic[i] {
			n++
		}
	}
	return n
}
