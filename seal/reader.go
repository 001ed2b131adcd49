// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Seal is the seal of an image. Its methods may be called from several goroutines at once if r.ReadAt may.
type Seal struct {
	Metadata
	ID    ID
	Start int64 // where the stream ends and the seal begins
	Size  int64 // bytes from Start to the end of the file

	r     io.ReaderAt
	foot  *footer
	first []int64 // number of the first sum of each block
}

// Open finds the seal at the end of the first size bytes of r. It checks footer and metadata; the sums are not read
// (see VerifySums).
//
// Errors are ErrNoSeal, ErrDamaged, ErrNewer, or r's own.
func Open(r io.ReaderAt, size int64) (*Seal, error) {
	if size < FooterSize {
		return nil, ErrNoSeal
	}
	b := make([]byte, FooterSize)
	if err := readAt(r, b, size-FooterSize); err != nil {
		return nil, err
	}
	f, err := decode(b, size)
	if err != nil {
		return nil, err
	}
	s := &Seal{ID: f.id, Start: f.start, Size: size - f.start, r: r, foot: f}
	if err := s.readMetadata(); err != nil {
		return nil, err
	}
	s.first = make([]int64, len(s.Blocks))
	var n int64
	for i, block := range s.Blocks {
		s.first[i] = n
		n += block.PagesStored
	}
	return s, nil
}

// readMetadata reads everything from the seal's start to the sums, and leaves no byte of it unchecked.
func (s *Seal) readMetadata() error {
	b := make([]byte, s.foot.sums-s.foot.start)
	if err := readAt(s.r, b, s.foot.start); err != nil {
		return err
	}
	lead := s.foot.metadata - s.foot.start
	text := b[lead : lead+s.foot.metadataSize]
	pad := append(bytes.Clone(b[:lead]), b[lead+s.foot.metadataSize:]...)
	if xxh3.Hash(text) != s.foot.metadataSum || !bytes.Equal(pad, make([]byte, len(pad))) {
		return fmt.Errorf("%w: the checksum over its metadata at offset %d does not hold", ErrDamaged, s.foot.metadata)
	}
	var v struct {
		FormatVersion int `json:"format_version"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("%w: its metadata: %w", ErrDamaged, err)
	}
	if v.FormatVersion > MetadataVersion {
		return fmt.Errorf("%w: metadata version %d, this one knows %d", ErrNewer, v.FormatVersion, MetadataVersion)
	}
	if err := json.Unmarshal(text, &s.Metadata); err != nil {
		return fmt.Errorf("%w: its metadata: %w", ErrDamaged, err)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("%w: its metadata: %w", ErrDamaged, err)
	}
	if n := s.TotalStored(); v.FormatVersion < 1 || n != s.foot.count {
		return fmt.Errorf("%w: %d sums for %d stored pages, metadata version %d", ErrDamaged, s.foot.count, n, v.FormatVersion)
	}
	return nil
}

// Sums returns the sums of the stored pages number first to first+n-1 of a block, both counted from 0; block is its
// index in Blocks. What it reads is covered by VerifySums, not checked here.
func (s *Seal) Sums(block int, first, n int) ([]uint64, error) {
	if block < 0 || block >= len(s.Blocks) {
		return nil, fmt.Errorf("the seal has no block number %d", block)
	}
	stored := s.Blocks[block].PagesStored
	if first < 0 || n < 0 || int64(first) > stored || int64(n) > stored-int64(first) {
		return nil, fmt.Errorf("the seal has no sums %d to %d of block %q, which has %d", first, first+n, s.Blocks[block].Name, stored)
	}
	sums := make([]uint64, n)
	at := s.foot.sums + 8*(s.first[block]+int64(first))
	b := make([]byte, min(8*n, bufferSize))
	for i := 0; i < n; {
		k := min(n-i, len(b)/8)
		if err := readAt(s.r, b[:8*k], at+8*int64(i)); err != nil {
			return nil, err
		}
		for j := range k {
			sums[i+j] = binary.LittleEndian.Uint64(b[8*j:])
		}
		i += k
	}
	return sums, nil
}

// VerifySums reads all sums and checks them, and the image's id, against the footer. ErrDamaged if they do not hold.
func (s *Seal) VerifySums() error {
	id, sums := sha256.New(), xxh3.New()
	b := make([]byte, bufferSize)
	copyTo := func(w io.Writer, at, n int64) error {
		for n > 0 {
			k := min(n, int64(len(b)))
			if err := readAt(s.r, b[:k], at); err != nil {
				return err
			}
			w.Write(b[:k]) // hashes do not fail
			at, n = at+k, n-k
		}
		return nil
	}
	if err := copyTo(id, s.foot.metadata, s.foot.metadataSize); err != nil {
		return err
	}
	if err := copyTo(io.MultiWriter(id, sums), s.foot.sums, 8*s.foot.count); err != nil {
		return err
	}
	if sums.Sum64() != s.foot.sumsSum {
		return fmt.Errorf("%w: the checksum over its page sums at offset %d does not hold", ErrDamaged, s.foot.sums)
	}
	if ID(id.Sum(nil)) != s.ID {
		return fmt.Errorf("%w: the image's id is not that of its content", ErrDamaged)
	}
	return nil
}

// readAt reads all of b. The end of the file inside a seal is damage; other errors are the disk's.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, ended, err := sys.ReadAll(r, b, at)
	if ended {
		return fmt.Errorf("%w: the file ends at offset %d", ErrDamaged, at+int64(n))
	}
	if err != nil {
		return fmt.Errorf("cannot read the seal at offset %d: %w", at, err)
	}
	return nil
}
