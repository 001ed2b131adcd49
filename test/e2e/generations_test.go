// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestGenerations saves a VM, restores it, lets it work, saves that over the image that it runs from, and so on: by each
// engine, in each mode, by the command line that was recorded of what was restored before.
func TestGenerations(t *testing.T) {
	v := boot(t, vm.Config{Memory: "128M", Fill: 30, Backend: vm.Memfd})
	image := filepath.Join(directory(t), "image")
	args := v
	for _, c := range []struct{ engine, mode string }{
		{"ramjet", "instant"}, {"ramjet", "instant"}, {"qemu", "instant"}, {"qemu", "eager"}, {"ramjet", "eager"}, {"ramjet", "instant"},
	} {
		before := look(t, v, false)
		must[save.Result](t, "save", "--qmp", args.QMP, "--force", "--engine", c.engine, image)
		after := look(t, v, false) // of an image that has been replaced, perhaps
		if after.memory.Sum != before.memory.Sum {
			t.Fatalf("the save by %s made %v of %v", c.engine, after.memory, before.memory)
		}
		do(t, v.Kill())
		v = revive(t, args, true, image, "--mode", c.mode)
		sameGuest(t, v, before, after, false)
	}
	nothingLeft(t, filepath.Dir(image), "image")
}
