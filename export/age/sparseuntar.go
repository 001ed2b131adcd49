// SPDX-License-Identifier: Apache-2.0

package age

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// errNotSparseTar: what was decrypted is something else.
var errNotSparseTar = errors.New("it holds no image as ramjet export --format age writes it")

// maxPaxRecords bounds the records of the header, in bytes.
const maxPaxRecords = 64 << 10

// sparseHeader reads an archive of sparseTar's up to the extents' bytes, which follow in r. archive/tar is not used because it gives out
// holes as zeros: a small hostile archive could declare a hole that takes years to read.
func sparseHeader(r io.Reader) (size int64, extents []extent, err error) {
	n, err := tarMember(r, 'x')
	if err != nil {
		return 0, nil, err
	}
	if n > maxPaxRecords {
		return 0, nil, errNotSparseTar
	}
	text := make([]byte, (n+tarBlock-1)&^(tarBlock-1))
	if _, err := io.ReadFull(r, text); err != nil {
		return 0, nil, shortTar(err)
	}
	records, err := paxRecords(text[:n])
	if err != nil {
		return 0, nil, err
	}
	if _, err := tarMember(r, '0'); err != nil {
		return 0, nil, err
	}
	size, err = tarNumber(records["GNU.sparse.realsize"])
	if err != nil || records["GNU.sparse.major"] != "1" || records["GNU.sparse.minor"] != "0" {
		return 0, nil, errNotSparseTar
	}
	extents, err = sparseMap(r, size)
	return size, extents, err
}

// tarMember reads a header of that kind and returns the size in it. The header's sum is not checked: age finds changes.
func tarMember(r io.Reader, kind byte) (int64, error) {
	var h [tarBlock]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, shortTar(err)
	}
	if h[156] != kind || string(h[257:262]) != "ustar" {
		return 0, errNotSparseTar
	}
	n, err := strconv.ParseInt(strings.TrimRight(string(h[124:136]), " \x00"), 8, 64)
	if err != nil || n < 0 {
		return 0, errNotSparseTar
	}
	return n, nil
}

// paxRecords returns the records by their keys.
func paxRecords(text []byte) (map[string]string, error) {
	records := map[string]string{}
	for len(text) > 0 {
		digits, _, ok := bytes.Cut(text, []byte(" "))
		n, err := strconv.Atoi(string(digits))
		if !ok || err != nil || n <= len(digits)+1 || n > len(text) || text[n-1] != '\n' {
			return nil, errNotSparseTar
		}
		key, value, _ := strings.Cut(string(text[len(digits)+1:n-1]), "=")
		records[key] = value
		text = text[n:]
	}
	return records, nil
}

// sparseMap reads the list of extents. Their offsets have to rise, and all have to lie in a file of that size.
func sparseMap(r io.Reader, size int64) (extents []extent, err error) {
	lines := &tarLines{r: bufio.NewReaderSize(&blockReader{r}, tarBlock)}
	count := lines.number()
	if count > maxExtents+1 {
		return nil, fmt.Errorf("%w: a file of %d parts", errNotSparseTar, count)
	}
	end := int64(0)
	for range count {
		x := extent{lines.number(), lines.number()}
		if lines.err == nil && (x.off < end || x.off > size || x.n > size-x.off) {
			return nil, fmt.Errorf("%w: parts of the file lie over each other or behind its end", errNotSparseTar)
		}
		if lines.err != nil {
			break
		}
		if end = x.off + x.n; x.n > 0 {
			extents = append(extents, x)
		}
	}
	return extents, lines.err
}

// blockReader reads a block at a time, so that what is buffered over it ends where a block does.
type blockReader struct{ io.Reader }

func (b *blockReader) Read(p []byte) (int, error) {
	if len(p) < tarBlock {
		return 0, io.ErrShortBuffer
	}
	return io.ReadFull(b.Reader, p[:tarBlock])
}

// tarLines reads numbers, one a line. After an error it reads nothing more.
type tarLines struct {
	r   *bufio.Reader
	err error
}

func (l *tarLines) number() (n int64) {
	if l.err != nil {
		return 0
	}
	var text []byte
	for {
		c, err := l.r.ReadByte()
		if err != nil {
			l.err = shortTar(err)
			return 0
		}
		if c == '\n' {
			break
		}
		if text = append(text, c); len(text) > 20 {
			l.err = errNotSparseTar
			return 0
		}
	}
	n, l.err = tarNumber(string(text))
	return n
}

// tarNumber parses a decimal number, 0 or more.
func tarNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, errNotSparseTar
	}
	return n, nil
}

// shortTar is errNotSparseTar for an archive that ends too soon; other errors of reading stay as they are.
func shortTar(err error) error {
	if err == io.EOF {
		return errNotSparseTar
	}
	return err
}
