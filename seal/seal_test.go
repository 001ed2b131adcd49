// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
)

// file is a file in memory that cannot be longer than limit, if that is set.
type file struct {
	b     []byte
	limit int
}

func (f *file) WriteAt(p []byte, at int64) (int, error) {
	if end := int(at) + len(p); end > len(f.b) {
		if f.limit > 0 && end > f.limit {
			return 0, errFull
		}
		f.b = append(f.b, make([]byte, end-len(f.b))...)
	}
	return copy(f.b[at:], p), nil
}

var errFull = errors.New("full")

// metadata has every field set.
func metadata() *Metadata {
	return &Metadata{
		Created: time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC), Format: "ramjet", RamjetVersion: "0.1", QEMUVersion: "10.0.2", MachineType: "pc-q35-10.0",
		StreamOffset: 7, StreamHash: Hash{1, 2, 3},
		Blocks: []Block{
			{Name: "pc.ram", Length: 100 * 4096, PageSize: 4096, PagesStored: 99},
			{Name: "empty", Length: 4096, PageSize: 4096, Whole: true},
			{Name: "pc.bios", Length: 64 * 4096, PageSize: 4096, PagesStored: 3},
		},
		CommandLine: []string{"qemu-system-x86_64", "-m", "1M"}, Cwd: "/", Executable: "/usr/bin/qemu-system-x86_64", WasRunning: true,
		Hot:  []Hot{{Block: "pc.ram", Units: []byte{1, 0, 0x80}}},
		Base: &Base{ID: ID{9}, Path: "/base.img"}, MemoryDevices: json.RawMessage(`[{"id":"dimm0"}]`),
	}
}

// sums returns n numbers that differ.
func sums(n int64) []uint64 {
	s := make([]uint64, n)
	for i := range s {
		s[i] = PageSum([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	}
	return s
}

// write seals content with m.
func write(t testing.TB, content []byte, m *Metadata, s []uint64) (*file, ID) {
	t.Helper()
	f := &file{b: bytes.Clone(content)}
	w, err := NewWriter(f, int64(len(content)), m)
	check(t, err)
	for len(s) > 0 {
		n := min(len(s), 1+rand.IntN(3000))
		check(t, w.AppendSums(s[:n]))
		s = s[n:]
	}
	id, end, err := w.Close()
	check(t, err)
	if end != int64(len(f.b)) {
		t.Fatalf("the seal ends at %d, the file at %d", end, len(f.b))
	}
	return f, id
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	big := metadata()
	big.Blocks[0].Length, big.Blocks[0].PagesStored = 1<<30, 100_000
	for name, m := range map[string]*Metadata{"all fields": metadata(), "many sums": big, "nothing": {}} {
		for lead := range 9 {
			t.Run(fmt.Sprintf("%s after %d bytes", name, lead), func(t *testing.T) {
				all := sums(m.TotalStored())
				content := bytes.Repeat([]byte{'s'}, lead)
				f, id := write(t, content, m, all)
				s, err := Open(bytes.NewReader(f.b), int64(len(f.b)))
				check(t, err)
				if !reflect.DeepEqual(&s.Metadata, m) {
					t.Errorf("metadata %+v, want %+v", s.Metadata, m)
				}
				if s.ID != id || s.Start != int64(lead) || s.Size != int64(len(f.b)-lead) || !bytes.Equal(f.b[:lead], content) {
					t.Errorf("seal %+v", s)
				}
				check(t, s.VerifySums())
				for i, b := range m.Blocks {
					got, err := s.Sums(i, 0, int(b.PagesStored))
					check(t, err)
					if !slices.Equal(got, all[:b.PagesStored]) {
						t.Errorf("block %d has other sums", i)
					}
					for range 20 {
						first := rand.IntN(int(b.PagesStored) + 1)
						n := rand.IntN(int(b.PagesStored) - first + 1)
						part, err := s.Sums(i, first, n)
						check(t, err)
						if !slices.Equal(part, got[first:first+n]) {
							t.Errorf("block %d has other sums from %d to %d", i, first, first+n)
						}
					}
					all = all[b.PagesStored:]
				}
			})
		}
	}
}

// TestLayout holds the bytes to what the package comment says.
func TestLayout(t *testing.T) {
	m := metadata()
	all := sums(m.TotalStored())
	f, id := write(t, []byte("stream"), m, all)
	text, err := json.Marshal(m)
	check(t, err)
	want := append([]byte("stream"), 0, 0)
	want = append(want, text...)
	for len(want)%8 != 0 {
		want = append(want, 0)
	}
	le := binary.LittleEndian
	sumsAt := len(want)
	for _, v := range all {
		want = le.AppendUint64(want, v)
	}
	raw := want[sumsAt:]
	hash := sha256.Sum256(slices.Concat(text, raw))
	foot := append([]byte("RAMJSEAL"), 1, 0, 0, 0, 128, 0, 0, 0)
	for _, v := range []int{6, 8, len(text), sumsAt, len(all)} {
		foot = le.AppendUint64(foot, uint64(v))
	}
	foot = le.AppendUint64(foot, xxh3.Hash(text))
	foot = le.AppendUint64(foot, xxh3.Hash(raw))
	foot = append(foot, hash[:]...)
	foot = append(foot, make([]byte, 16)...)
	foot = le.AppendUint64(foot, xxh3.Hash(foot))
	want = append(want, foot...)
	if !bytes.Equal(f.b, want) {
		t.Errorf("the file is\n%q, want\n%q", f.b, want)
	}
	if id != ID(hash) {
		t.Errorf("id %v, want %x", id, hash)
	}
}

// TestEveryBit flips each bit of a seal; none may go unnoticed.
func TestEveryBit(t *testing.T) {
	f, _ := write(t, []byte("stream"), metadata(), sums(102))
	for i := 6; i < len(f.b); i++ {
		for bit := range 8 {
			f.b[i] ^= 1 << bit
			s, err := Open(bytes.NewReader(f.b), int64(len(f.b)))
			if err == nil {
				err = s.VerifySums()
			}
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("bit %d of byte %d of %d: %v", bit, i, len(f.b), err)
			}
			f.b[i] ^= 1 << bit
		}
	}
	for n := range f.b {
		if _, err := Open(bytes.NewReader(f.b[:n]), int64(n)); !errors.Is(err, ErrNoSeal) {
			t.Errorf("the first %d bytes of %d: %v", n, len(f.b), err)
		}
	}
}

func TestSumsOutOfRange(t *testing.T) {
	f, _ := write(t, nil, metadata(), sums(102))
	s, err := Open(bytes.NewReader(f.b), int64(len(f.b)))
	check(t, err)
	for _, c := range [][3]int{{-1, 0, 0}, {3, 0, 0}, {0, -1, 1}, {0, 0, -1}, {0, 0, 100}, {0, 99, 1}, {0, 100, 0}, {1, 0, 1}, {2, 1, 1 << 62}} {
		if _, err := s.Sums(c[0], c[1], c[2]); err == nil {
			t.Errorf("sums %v are given", c)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	for name, change := range map[string]func(*Metadata){
		"negative offset": func(m *Metadata) { m.StreamOffset = -1 },
		"many blocks":     func(m *Metadata) { m.Blocks = make([]Block, MaxBlocks+1) },
		"many arguments":  func(m *Metadata) { m.CommandLine = make([]string, MaxArguments+1) },
		"much hot":        func(m *Metadata) { m.Hot = make([]Hot, MaxBlocks+1) },
		"no name":         func(m *Metadata) { m.Blocks[0].Name = "" },
		"long name":       func(m *Metadata) { m.Blocks[0].Name = strings.Repeat("x", 256) },
		"same name":       func(m *Metadata) { m.Blocks[0].Name = m.Blocks[1].Name },
		"page size 0":     func(m *Metadata) { m.Blocks[0].PageSize = 0 },
		"page size 12288": func(m *Metadata) { m.Blocks[0].PageSize = 3 * 4096 },
		"length":          func(m *Metadata) { m.Blocks[0].Length = 4097 },
		"negative length": func(m *Metadata) { m.Blocks[0].Length = -4096 },
		"stored":          func(m *Metadata) { m.Blocks[0].PagesStored = 101 },
		"long":            func(m *Metadata) { m.Cwd = strings.Repeat("x", MaxMetadata) },
		"no JSON":         func(m *Metadata) { m.MemoryDevices = json.RawMessage("{") },
	} {
		m := metadata()
		change(m)
		f := new(file)
		if _, err := NewWriter(f, 0, m); err == nil || len(f.b) > 0 {
			t.Errorf("%s: %v, %d bytes written", name, err, len(f.b))
		}
	}
	if _, err := NewWriter(new(file), -1, metadata()); err == nil {
		t.Error("a negative offset is taken")
	}
}

func TestWriterCounts(t *testing.T) {
	w, err := NewWriter(new(file), 0, metadata())
	check(t, err)
	check(t, w.AppendSums(sums(101)))
	if _, _, err := w.Close(); err == nil {
		t.Error("a seal with a sum too few is closed")
	}
	w, err = NewWriter(new(file), 0, metadata())
	check(t, err)
	if err := w.AppendSums(sums(103)); err == nil {
		t.Error("a sum too many is taken")
	}
	if err := w.AppendSums(nil); err == nil {
		t.Error("the error is forgotten")
	}
	if _, _, err := w.Close(); err == nil {
		t.Error("a seal with a sum too many is closed")
	}
	w, err = NewWriter(new(file), 0, &Metadata{})
	check(t, err)
	if _, _, err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := w.Close(); err == nil {
		t.Error("a seal is closed twice")
	}
}

// TestDiskFull ends the file at every byte.
func TestDiskFull(t *testing.T) {
	m := metadata()
	m.Blocks[0].Length, m.Blocks[0].PagesStored = 1<<30, 100_000
	all := sums(m.TotalStored())
	whole, _ := write(t, nil, m, all)
	for limit := 1; limit < len(whole.b); limit += 9999 {
		f := &file{limit: limit}
		w, err := NewWriter(f, 0, m)
		if err == nil {
			err = w.AppendSums(all)
		}
		if err == nil {
			_, _, err = w.Close()
		}
		if !errors.Is(err, errFull) {
			t.Errorf("file of %d bytes of %d: %v", limit, len(whole.b), err)
		}
	}
	w, err := NewWriter(shortWriter{}, 0, m)
	if err == nil {
		err = w.AppendSums(all)
	}
	if !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("short writes: %v", err)
	}
}

type shortWriter struct{}

func (shortWriter) WriteAt(p []byte, _ int64) (int, error) { return len(p) / 2, nil }

// TestReadErrors: an error of the disk is not taken for a damaged seal.
func TestReadErrors(t *testing.T) {
	f, _ := write(t, []byte("stream"), metadata(), sums(102))
	for n := 6; n < len(f.b); n += 3 {
		r := brokenAt{bytes.NewReader(f.b), int64(n)}
		s, err := Open(r, int64(len(f.b)))
		if err == nil {
			_, err2 := s.Sums(0, 0, 99)
			_, err3 := s.Sums(2, 0, 3)
			err = s.VerifySums()
			if err != nil && err2 == nil && err3 == nil {
				t.Errorf("byte %d is not read by Sums", n)
			}
		}
		if !errors.Is(err, errFull) || errors.Is(err, ErrDamaged) {
			t.Errorf("a read error at byte %d: %v", n, err)
		}
	}
	// The file became shorter after it was measured.
	if _, err := Open(bytes.NewReader(f.b[:len(f.b)-1]), int64(len(f.b))); !errors.Is(err, ErrDamaged) {
		t.Errorf("a shorter file: %v", err)
	}
}

// brokenAt fails to read one byte.
type brokenAt struct {
	r  io.ReaderAt
	at int64
}

func (b brokenAt) ReadAt(p []byte, at int64) (int, error) {
	if at <= b.at && b.at < at+int64(len(p)) {
		return 0, errFull
	}
	return b.r.ReadAt(p, at)
}

func TestID(t *testing.T) {
	id := ID{0xab, 31: 1}
	text, err := json.Marshal(map[string]ID{"id": id})
	check(t, err)
	if want := `{"id":"ab` + strings.Repeat("0", 60) + `01"}`; string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	var back map[string]ID
	check(t, json.Unmarshal(text, &back))
	if back["id"] != id || id.IsZero() || !(ID{}).IsZero() {
		t.Errorf("%v", back)
	}
	for _, bad := range []string{"", "ab", strings.Repeat("g", 64), strings.Repeat("0", 66)} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q is taken for an id", bad)
		}
	}
	if err := json.Unmarshal([]byte(`{"id":"ab"}`), &back); err == nil {
		t.Error("a short id is read from JSON")
	}
}

// TestPageSum pins the algorithm: sums in files must mean the same for ever.
func TestPageSum(t *testing.T) {
	if got := PageSum(make([]byte, 4096)); got != zeroSum {
		t.Errorf("the sum of a page of zeros is %#x", got)
	}
	if got := PageSum(nil); got != 0x2d06800538d394c2 { // the empty input in xxHash's own specification
		t.Errorf("the sum of nothing is %#x", got)
	}
}
