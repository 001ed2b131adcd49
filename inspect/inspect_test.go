// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
)

func TestInspect(t *testing.T) {
	path := testkit.SmallImage().Sealed(t)
	r, err := Inspect(Options{Image: path, Map: 64, DeviceState: true})
	testkit.Check(t, err)
	var stored int64
	for _, b := range r.Blocks {
		stored += b.PagesStored
	}
	if !r.Sealed || !r.Complete || r.Format != "qemu" || len(r.Blocks) != 3 || r.StoredBytes != 4096*stored || stored != opened(t, path).Seal.TotalStored() {
		t.Errorf("%+v", r)
	}
	var sum Cell
	cells := 0
	for _, b := range r.Map.Blocks {
		cells += len(b.Cells)
		for _, c := range b.Cells {
			sum.Data += c.Data
			sum.Zero += c.Zero
		}
	}
	if sum.Data != stored || sum.Data+sum.Zero != (4<<20+128<<10+4096)/4096 || cells > 64 {
		t.Errorf("map of %d cells: %+v", cells, sum)
	}
	if len(r.Devices) != 2 || r.Devices[0].Name != "timer" || r.Devices[0].Bytes != 24 || r.RunState != "running" {
		t.Errorf("devices %+v, run state %q", r.Devices, r.RunState)
	}
	text, err := json.Marshal(r)
	testkit.Check(t, err)
	var fields map[string]json.RawMessage
	testkit.Check(t, json.Unmarshal(text, &fields))
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	want := strings.Fields("base blocks complete created devices file_bytes format id image machine needed_by qemu_version sealed stored_bytes stream_bytes stream_offset")
	if !slices.Equal(names, want) {
		t.Errorf("fields %v, want %v", names, want)
	}
}

// TestMapCells compares the cells with a count page by page, for every scale.
func TestMapCells(t *testing.T) {
	image := opened(t, testkit.SmallImage().Write(t))
	for _, limit := range []int{1, 3, 10, 100, 1000, 5000} {
		m, err := mapImage(image, limit)
		testkit.Check(t, err)
		for i, b := range m.Blocks {
			stored, err := image.Bitmap(i)
			testkit.Check(t, err)
			for k, c := range b.Cells {
				var want Cell
				for p := int64(k) * m.PagesPerCell; p < min(int64(k+1)*m.PagesPerCell, b.Pages); p++ {
					if stored.Get(p) {
						want.Data++
					} else {
						want.Zero++
					}
				}
				if c != want {
					t.Fatalf("limit %d, block %s, cell %d: %+v, want %+v", limit, b.Name, k, c, want)
				}
			}
		}
	}
}

func TestInspectIncomplete(t *testing.T) {
	path := testkit.SmallImage().Write(t)
	st, err := os.Stat(path)
	testkit.Check(t, err)
	testkit.Check(t, os.Truncate(path, st.Size()-10))
	r, err := Inspect(Options{Image: path})
	if err != nil || r.Complete || r.Incomplete == nil || len(r.Blocks) != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	for content, want := range map[string]string{
		"":                                   "empty",
		"QFI\xfb\x00\x00\x00\x03":            "qcow2",
		"\x7fELF\x02\x01\x01":                "ELF",
		"\x1f\x8b\x08\x00":                   "gzip",
		"\x28\xb5\x2f\xfd....":               "zstd",
		strings.Repeat("\x00", 8192):         "zeros",
		"\x00\x00\x64\x86\x84\x19\x10\x07xx": "Firecracker",
		strings.Repeat("x", 257) + "ustar":   "tar",
		"hello":                              "no QEMU migration stream",
		// A stream that is no mapped-ram.
		"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x02pc\x01\x00\x00\x00\x01\x03ram\x00\x00\x00\x00\x00\x00\x00\x04" + strings.Repeat("\x00", 64): "without mapped-ram",
	} {
		path := filepath.Join(dir, "file")
		testkit.Check(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := Inspect(Options{Image: path})
		if !errors.Is(err, mappedram.ErrImage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", content, err, want)
		}
		if _, err := image.OpenFile(path, nil); !errors.Is(err, mappedram.ErrImage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q, opened: %v, want %q", content, err, want)
		}
	}
}

func TestFieldValue(t *testing.T) {
	for _, c := range []struct {
		typ, bytes, want string
		count            int64
	}{
		{"uint32", "\x00\x00\x01\x02", "0x00000102", 0},
		{"int32", "\xff\xff\xff\xfe", "0xfffffffe (-2)", 0},
		{"int64 equal", "\x80\x00\x00\x00\x00\x00\x00\x00", "0x8000000000000000 (-9223372036854775808)", 0},
		{"uint8", "\x01\x02", "0x01, 0x02", 0},
		{"int32 le", "\x00\x00\x01\x02", "0x00000102", 0},
		{"bool", "\x01\x00", "true, false", 0},
		{"nullptr", "0", "nullptr", 0},
		{"nullptr", "00", "nullptr, nullptr", 2},
		{"buffer", "\x01\xff\x02\x03", "01 ff, 02 03", 2},
		{"buffer", "", "", 2},
		{"buffer", "\x01\xff", "01 ff", 0},
		{"uint32", "\x01", "01", 0},
		{"capability", "\x0amapped-ram", `"mapped-ram"`, 0},
		{"uint128", "\x01", "01", 0},
		{"int", "", "", 0},
	} {
		if got := fieldValue(c.typ, []byte(c.bytes), c.count); got != c.want {
			t.Errorf("%s %x: %q, want %q", c.typ, c.bytes, got, c.want)
		}
	}
	if got := fieldValue("uint8", make([]byte, maxShownValue+1), maxShownValue+1); !strings.HasSuffix(got, "0x00, ...") {
		t.Errorf("a long array ends %q", got[len(got)-20:])
	}
	if got := fieldValue("buffer", make([]byte, maxShownValue+1), 0); !strings.HasSuffix(got, "00 00 ...") {
		t.Errorf("a long buffer ends %q", got[len(got)-20:])
	}
}

// opened opens an image for the rest of a test.
func opened(t testing.TB, path string) *image.File {
	t.Helper()
	img, err := image.OpenFile(path, nil)
	testkit.Check(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}
