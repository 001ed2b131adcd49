// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// TestNotRestorable: what a restore refuses is what a save says that it cannot be restored, since both ask the same function.
func TestNotRestorable(t *testing.T) {
	for machine, bits := range map[string]uint32{"pc-q35-10.0": 0, "virt-10.0": 12} {
		why := NotRestorable(vmstate.Config{MachineType: machine, PageBits: bits})
		if (why != "") != (bits != 0) || bits != 0 && !strings.Contains(why, "another architecture") {
			t.Errorf("%s: %q", machine, why)
		}
	}
}
