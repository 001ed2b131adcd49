// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	"github.com/zeebo/xxh3"
)

// Writer writes one seal. Its memory does not grow with the number of pages. It is for one goroutine.
type Writer struct {
	w    io.WriterAt
	at   int64 // where buf goes
	buf  []byte
	left int64 // sums that are still to come
	foot footer
	id   hash.Hash    // over metadata and sums
	sums *xxh3.Hasher // over the sums
	err  error        // the first failure; nothing is written after it
}

// bufferSize is what a Writer collects before it writes, and what a Seal reads at a time.
const bufferSize = 256 << 10

// NewWriter begins a seal at offset at, the end of the stream, and writes the metadata. m must be complete: its
// PagesStored say how many sums are to follow. NewWriter sets m.FormatVersion.
func NewWriter(w io.WriterAt, at int64, m *Metadata) (*Writer, error) {
	if at < 0 {
		return nil, fmt.Errorf("cannot seal at offset %d", at)
	}
	m.FormatVersion = MetadataVersion
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("cannot seal: %w", err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("cannot seal: %w", err)
	}
	if len(text) > MaxMetadata {
		return nil, fmt.Errorf("cannot seal: the metadata has %d bytes, more than %d", len(text), MaxMetadata)
	}
	f := footer{start: at, metadata: align(at), metadataSize: int64(len(text)), metadataSum: xxh3.Hash(text), count: m.TotalStored()}
	f.sums = align(f.metadata + f.metadataSize)
	s := &Writer{w: w, at: at, left: f.count, foot: f, id: sha256.New(), sums: xxh3.New()}
	s.id.Write(text)
	s.buf = make([]byte, 0, bufferSize)
	s.write(make([]byte, f.metadata-at))
	s.write(text)
	s.write(make([]byte, f.sums-f.metadata-f.metadataSize))
	return s, s.err
}

// AppendSums appends the sums of the next stored pages: block after block in the metadata's order, page after page, in
// as many calls as the caller likes.
func (s *Writer) AppendSums(sums []uint64) error {
	if s.err != nil {
		return s.err
	}
	if int64(len(sums)) > s.left {
		s.err = fmt.Errorf("cannot seal: more than the %d page sums that the metadata announce", s.foot.count)
		return s.err
	}
	s.left -= int64(len(sums))
	var raw [4096]byte
	for len(sums) > 0 && s.err == nil {
		n := min(len(sums), len(raw)/8)
		for i, v := range sums[:n] {
			binary.LittleEndian.PutUint64(raw[8*i:], v)
		}
		b := raw[:8*n]
		s.id.Write(b)
		s.sums.Write(b)
		s.write(b)
		sums = sums[n:]
	}
	return s.err
}

// Close writes the footer and returns the image's id and where the file has to end: the seal is found by the end of
// the file, so if the file is longer the caller truncates it there. It does not sync.
func (s *Writer) Close() (id ID, end int64, err error) {
	if s.err == nil && s.left != 0 {
		s.err = fmt.Errorf("cannot seal: %d of %d page sums are missing", s.left, s.foot.count)
	}
	if s.err != nil {
		return ID{}, 0, s.err
	}
	s.foot.sumsSum = s.sums.Sum64()
	s.id.Sum(s.foot.id[:0])
	s.write(s.foot.encode())
	s.flush()
	if s.err != nil {
		return ID{}, 0, s.err
	}
	s.err = fmt.Errorf("the seal is closed")
	return s.foot.id, s.at, nil
}

func (s *Writer) write(b []byte) {
	for len(b) > 0 && s.err == nil {
		n := copy(s.buf[len(s.buf):cap(s.buf)], b)
		s.buf, b = s.buf[:len(s.buf)+n], b[n:]
		if len(s.buf) == cap(s.buf) {
			s.flush()
		}
	}
}

func (s *Writer) flush() {
	n, err := s.w.WriteAt(s.buf, s.at)
	if err == nil && n < len(s.buf) {
		err = io.ErrShortWrite
	}
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("cannot write the seal at offset %d: %w", s.at, err)
	}
	s.at += int64(len(s.buf))
	s.buf = s.buf[:0]
}
