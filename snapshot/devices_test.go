// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what Inspect says of testdata/devices anew")

// TestDevices holds what Inspect says of the device state in testdata/devices: sections of a pc and a q35 that ran Linux under
// QEMU 10.0.2, with arrays, structures in structures, subsections and null pointers. That fields.txt says the same as QEMU's
// analyze-migration.py, all 935 values in their order, was found when it was written; TestDeviceState in test/e2e compares whole machines.
func TestDevices(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	dir := filepath.Join("testdata", "devices")
	_, err := Import(context.Background(), ImportOptions{Dir: dir, Image: image})
	check(t, err)
	r, err := Inspect(InspectOptions{Image: image, DeviceState: true})
	check(t, err)
	var s strings.Builder
	for _, d := range r.Devices {
		fmt.Fprintf(&s, "%s, instance %d, version %d, %d bytes\n", d.Name, d.Instance, d.Version, d.Bytes)
		for _, f := range d.Fields {
			fmt.Fprintf(&s, "  %s, %s of %d: %s\n", f.Path, f.Type, f.Size, f.Value)
		}
	}
	golden := filepath.Join(dir, "fields.txt")
	if *update {
		check(t, os.WriteFile(golden, []byte(s.String()), 0o666))
	}
	b, err := os.ReadFile(golden)
	check(t, err)
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
