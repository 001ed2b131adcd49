// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// opened opens an image for the rest of a test.
func opened(t testing.TB, path string) *File {
	t.Helper()
	image, err := OpenFile(path, nil)
	testkit.Check(t, err)
	t.Cleanup(func() { image.Close() })
	return image
}

// TestNotRestorable: an image of another architecture is not restored. A save and a restore ask the same function.
func TestNotRestorable(t *testing.T) {
	t.Parallel()
	for machine, bits := range map[string]uint32{"pc-q35-10.0": 0, "virt-10.0": 12} {
		why := NotRestorable(vmstate.Config{MachineType: machine, PageBits: bits})
		if (why != "") != (bits != 0) || bits != 0 && !strings.Contains(why, "another architecture") {
			t.Errorf("%s: %q", machine, why)
		}
	}
}
