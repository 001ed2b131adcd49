// SPDX-License-Identifier: Apache-2.0

// Package seal writes and reads what Ramjet adds to an image behind the end of QEMU's stream: metadata, one checksum
// for each stored page, and a footer by which it is found. QEMU stops reading where the stream ends and never sees it.
//
// A seal makes an image checkable to the page, makes "what changed since" answerable without reading the image, and
// gives it an id that a diff can name. Nothing in it is needed to load the image.
//
// Layout, from the end of the stream at offset S. All integers are little-endian.
//
//	S             0 to 7 bytes of zero, up to a multiple of 8 of the file's offset
//	M             metadata: one JSON object, UTF-8, at most 8 MiB
//	M+m           0 to 7 bytes of zero, up to a multiple of 8
//	U             sums: for each block in the metadata's order, for each stored page in the order of pages,
//	              u64 XXH3-64 of the page's bytes
//	U+8n          footer, 128 bytes, the last of the file:
//	                0   8   "RAMJSEAL"
//	                8   u32 version of this layout, 1
//	               12   u32 length of the footer, 128
//	               16   u64 S
//	               24   u64 M
//	               32   u64 m, length of the metadata
//	               40   u64 U
//	               48   u64 n, number of sums
//	               56   u64 XXH3-64 of the metadata
//	               64   u64 XXH3-64 of the sums
//	               72   32  id: SHA-256 over the metadata followed by the sums
//	              104   16  zero
//	              120   u64 XXH3-64 of the footer's bytes 0 to 119
//
// The metadata holds a SHA-256 over the stream without its pages (package mappedram says which bytes), and the sums
// cover the pages, so the id stands for the whole image. XXH3 finds damage, not malice: who can write the file can make
// a page and a sum that agree. The id is collision-resistant over metadata and sums only.
//
// Open reads footer and metadata and checks both. The sums, 8 bytes for each 4096, are checked as a whole by VerifySums.
package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

const (
	// Version is the version of the layout that this package writes, and the highest that it reads.
	Version = 1
	// FooterSize is the length of the footer.
	FooterSize = 128

	magic     = "RAMJSEAL"
	alignment = 8
)

// Limits on what is read and written.
const (
	MaxMetadata  = 8 << 20 // bytes of JSON; an image with so much can be looked at in 64 MiB of memory
	MaxBlocks    = 4096
	MaxArguments = 1 << 16 // of a command line
)

// Errors that callers test for with errors.Is.
var (
	ErrNoSeal  = errors.New("the image has no seal")
	ErrDamaged = errors.New("the image's seal is damaged")
	ErrNewer   = errors.New("the image's seal was written by a newer Ramjet")
)

// ID names a sealed image: SHA-256 over the metadata and the sums. The zero ID names none.
type ID [sha256.Size]byte

// String returns the id as 64 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the id names no image.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText returns the id as String does.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (id *ID) UnmarshalText(text []byte) error {
	v, err := ParseID(string(text))
	if err == nil {
		*id = v
	}
	return err
}

// ParseID reads 64 hexadecimal digits.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return ID{}, fmt.Errorf("%.80q is not an image's id: those have %d hexadecimal digits", s, 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// PageSum is the checksum of one page: XXH3-64 of its bytes.
func PageSum(page []byte) uint64 { return xxh3.Hash(page) }

// align rounds an offset up to where metadata, sums and footer may begin.
func align(n int64) int64 { return (n + alignment - 1) &^ (alignment - 1) }
