// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

var update = flag.Bool("update", false, "write what Inspect says of testdata/devices anew")

// TestDevices holds what Inspect says of the device state in testdata/devices: sections of a pc and a q35 that ran Linux under
// QEMU 10.0.2, with arrays, structures in structures, subsections and null pointers. That fields.txt says the same as QEMU's
// analyze-migration.py, all 935 values in their order, was found when it was written; TestDeviceState in test/e2e compares whole machines.
func TestDevices(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("testdata", "devices")
	state, err := os.ReadFile(filepath.Join(dir, "device-state"))
	testkit.Check(t, err)
	description, err := os.ReadFile(filepath.Join(dir, "description.json"))
	testkit.Check(t, err)
	i := testkit.SmallImage()
	i.Description = string(description)
	i.Sections, err = vmstate.DeviceSections(state)
	testkit.Check(t, err)
	r, err := Inspect(Options{Image: i.Write(t), DeviceState: true})
	testkit.Check(t, err)
	var s strings.Builder
	for _, d := range r.Devices {
		fmt.Fprintf(&s, "%s, instance %d, version %d, %d bytes\n", d.Name, d.Instance, d.Version, d.Bytes)
		for _, f := range d.Fields {
			fmt.Fprintf(&s, "  %s, %s of %d: %s\n", f.Path, f.Type, f.Size, f.Value)
		}
	}
	golden := filepath.Join(dir, "fields.txt")
	if *update {
		testkit.Check(t, os.WriteFile(golden, []byte(s.String()), 0o666))
	}
	b, err := os.ReadFile(golden)
	testkit.Check(t, err)
	want, got := strings.Split(string(b), "\n"), strings.Split(s.String(), "\n")
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Fatalf("line %d is\n%s\nand was\n%s", i+1, got[i], want[i])
		}
	}
	if len(want) != len(got) {
		t.Errorf("%d lines, were %d", len(got), len(want))
	}
}

// TestTooManyFields: a description that makes much of little is refused before it takes memory.
func TestTooManyFields(t *testing.T) {
	for name, c := range map[string]struct {
		fields, length int
		field          string
	}{
		"elements": {1, 1_000_000, `{"name": "a", "array_len": 1000000, "type": "struct", "size": 1, "struct": {"fields": [{"name": "b", "type": "uint8", "size": 1}]}}`},
		"text":     {200, 4096, `{"name": "a", "array_len": 4096, "type": "nullptr", "size": 1}`},
		"path":     {1, 1000, `{"name": "` + strings.Repeat("a", 10_000) + `", "array_len": 1000, "type": "struct", "size": 1, "struct": {"fields": [{"name": "b", "type": "uint8", "size": 1}]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := testkit.SmallImage()
			i.Sections = append(vmstate.AppendSectionStart(nil, vmstate.TypeFull, 1, "dev", 0, 1), make([]byte, c.fields*c.length)...)
			i.Sections = vmstate.AppendFooter(i.Sections, 1)
			i.Description = `{"page_size": 4096, "devices": [{"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, "fields": [` +
				strings.Repeat(c.field+",", c.fields-1) + c.field + `]}]}`
			image := i.Write(t)
			if _, err := Inspect(Options{Image: image, DeviceState: true}); !errors.Is(err, mappedram.ErrUnsupported) {
				t.Errorf("%v", err)
			}
		})
	}
}
