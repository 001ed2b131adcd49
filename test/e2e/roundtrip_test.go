// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestRoundTrip saves a guest that works, kills it, restores it in each mode, and has it say that it is the same
// guest, with all of its memory.
func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name string
		vm.Config
	}{
		{"pc anonymous", vm.Config{Fill: 100}},
		{"pc memfd", vm.Config{Backend: vm.Memfd, Fill: 100}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := vm.Run(t, c.Config)
			image := filepath.Join(t.TempDir(), "image")
			before := whole(t, v)
			counted := count(t, v)
			saveVM(t, v, image)
			if now := count(t, v); now <= counted {
				t.Errorf("the counter went from %d to %d over the save", counted, now)
			}
			if after := whole(t, v); after.Sum != before.Sum {
				t.Errorf("the save changed the guest's memory: %v, before %v", after, before)
			}
			saved := count(t, v)
			v.Kill()
			for _, mode := range []string{"instant", "eager"} {
				r, _ := restoreVM(t, v, image, "--mode", mode)
				if got := whole(t, r); got.Sum != before.Sum {
					t.Errorf("%s: memory is %v, was %v", mode, got, before)
				}
				if n := count(t, r); n < counted || n > saved+10000 {
					t.Errorf("%s: the counter is %d, was %d at the save", mode, n, counted)
				}
				r.Kill()
			}
		})
	}
}
