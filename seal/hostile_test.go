// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

// zeroSum is the sum of 4096 zeros.
const zeroSum = 0x93d76fe148c689ba

// forge makes a seal around any metadata text and number of sums, with all checksums right, and lets change have the
// footer before its checksum is taken.
func forge(text string, count int, change func(foot []byte)) []byte {
	f := footer{metadataSize: int64(len(text)), metadataSum: xxh3.Hash([]byte(text)), count: int64(count), sums: align(int64(len(text)))}
	b := make([]byte, f.sums+8*f.count)
	copy(b, text)
	f.sumsSum = xxh3.Hash(b[f.sums:])
	foot := f.encode()
	if change != nil {
		change(foot)
		binary.LittleEndian.PutUint64(foot[FooterSize-8:], xxh3.Hash(foot[:FooterSize-8]))
	}
	return append(b, foot...)
}

func put(i int, v uint64) func([]byte) {
	return func(foot []byte) { binary.LittleEndian.PutUint64(foot[i:], v) }
}

const one = `{"format_version":1,"blocks":[{"name":"a","length":8192,"page_size":4096,"pages_stored":2}]}`

// hostile are seals that somebody made to do harm; every checksum in them is right.
var hostile = []struct {
	name string
	file []byte
	want error
}{
	{"good", forge(one, 2, nil), nil},
	{"not-json", forge(`{`, 0, nil), ErrDamaged},
	{"empty", forge(``, 0, nil), ErrDamaged},
	{"list", forge(`[]`, 0, nil), ErrDamaged},
	{"version-0", forge(`{}`, 0, nil), ErrDamaged},
	{"newer-metadata", forge(`{"format_version":2,"blocks":"other"}`, 0, nil), ErrNewer},
	{"newer-layout", forge(one, 2, func(b []byte) { b[8] = 2 }), ErrNewer},
	{"layout-0", forge(one, 2, func(b []byte) { b[8] = 0 }), ErrDamaged},
	{"footer-size", forge(one, 2, func(b []byte) { b[12] = 64 }), ErrDamaged},
	{"start-beyond", forge(one, 2, put(16, 1<<40)), ErrDamaged},
	{"start-negative", forge(one, 2, put(16, 1<<63)), ErrDamaged},
	{"start-max", forge(one, 2, put(16, 1<<63-1)), ErrDamaged},
	{"metadata-beyond", forge(one, 2, put(24, 1<<40)), ErrDamaged},
	{"metadata-huge", forge(one, 2, put(32, 1<<62)), ErrDamaged},
	{"metadata-negative", forge(one, 2, put(32, 1<<63)), ErrDamaged},
	{"metadata-over-sums", forge(one, 2, put(32, uint64(len(one)+8))), ErrDamaged},
	{"sums-beyond", forge(one, 2, put(40, 1<<40)), ErrDamaged},
	{"sums-negative", forge(one, 2, put(40, 1<<63+8)), ErrDamaged},
	{"count-huge", forge(one, 2, put(48, 1<<61)), ErrDamaged},
	{"count-negative", forge(one, 2, put(48, 1<<64-1)), ErrDamaged},
	{"count-overflow", forge(`{"format_version":1}`, 0, put(48, 1<<61)), ErrDamaged},
	{"count-short", forge(one, 2, put(48, 1)), ErrDamaged},
	{"fewer-sums-than-pages", forge(one, 1, nil), ErrDamaged},
	{"more-sums-than-pages", forge(one, 3, nil), ErrDamaged},
	{"same-names", forge(strings.Replace(one, "[", `[{"name":"a","length":0,"page_size":4096},`, 1), 2, nil), ErrDamaged},
	{"page-size-0", forge(strings.Replace(one, ":4096", ":0", 1), 2, nil), ErrDamaged},
	{"length-huge", forge(strings.Replace(one, ":8192", ":9223372036854771712", 1), 2, nil), ErrDamaged},
	{"stored-negative", forge(strings.Replace(one, ":2}", ":-2}", 1), 0, nil), ErrDamaged},
	{"blocks-not-a-list", forge(`{"format_version":1,"blocks":{}}`, 0, nil), ErrDamaged},
	{"blocks-of-numbers", forge(`{"format_version":1,"blocks":[1]}`, 0, nil), ErrDamaged},
	{"blocks-null", forge(`{"format_version":1,"blocks":null}`, 0, nil), nil},
	{"command-line-of-numbers", forge(`{"format_version":1,"command_line":[1]}`, 0, nil), ErrDamaged},
	{"created", forge(`{"format_version":1,"created":"yesterday"}`, 0, nil), ErrDamaged},
}

func TestHostile(t *testing.T) {
	for _, c := range hostile {
		s, err := Open(bytes.NewReader(c.file), int64(len(c.file)))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", c.name, s, err, c.want)
		}
	}
}

// TestHostileMemory: what is 8 MiB of text must not become a multiple of it.
func TestHostileMemory(t *testing.T) {
	for name, entry := range map[string]string{"blocks": "{}", "command_line": `""`, "unknown": "[]"} {
		text := `{"format_version":1,"` + name + `":[` + strings.Repeat(entry+",", (MaxMetadata-100)/(len(entry)+1)) + entry + `]}`
		file := forge(text, 0, nil)
		text = ""
		check := allocs.AtMost(t, 64<<20)
		_, err := Open(bytes.NewReader(file), int64(len(file)))
		check()
		if (err == nil) != (name == "unknown") {
			t.Errorf("%s: %v", name, err)
		}
	}
	text := `{"format_version":1,"cwd":"` + strings.Repeat("x", MaxMetadata) + `"}`
	if _, err := Open(bytes.NewReader(forge(text, 0, nil)), int64(len(forge(text, 0, nil)))); !errors.Is(err, ErrDamaged) {
		t.Errorf("more than %d bytes of metadata: %v", MaxMetadata, err)
	}
}

// FuzzOpen: what opens is consistent, and what does not says why. The checksums are made right so that the fuzzer gets
// behind them.
func FuzzOpen(f *testing.F) {
	good, _ := write(f, []byte("stream"), metadata(), sums(102))
	f.Add(good.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		if len(b) >= FooterSize {
			b = bytes.Clone(b)
			foot := b[len(b)-FooterSize:]
			le := binary.LittleEndian
			if at, n := le.Uint64(foot[24:]), le.Uint64(foot[32:]); at <= uint64(len(b)) && n <= uint64(len(b))-at {
				le.PutUint64(foot[56:], xxh3.Hash(b[at:at+n]))
			}
			le.PutUint64(foot[FooterSize-8:], xxh3.Hash(foot[:FooterSize-8]))
		}
		s, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrNoSeal) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		if s.Start < 0 || s.Start+s.Size != int64(len(b)) {
			t.Fatalf("seal from %d, %d bytes, in %d", s.Start, s.Size, len(b))
		}
		for i, block := range s.Blocks {
			if _, err := s.Sums(i, 0, int(block.PagesStored)); err != nil {
				t.Fatalf("sums of block %d: %v", i, err)
			}
		}
		if err := s.VerifySums(); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}
