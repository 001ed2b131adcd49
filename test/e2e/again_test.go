// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestAgain saves a VM that was itself restored, and restores that with the command line that the image records, in
// each mode: what Ramjet did to the command line the first time must not show.
func TestAgain(t *testing.T) {
	v := vm.Run(t, vm.Config{Fill: 60, Backend: vm.Memfd})
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	saveVM(t, v, first)
	v.Kill()
	for _, mode := range []string{"instant", "eager"} {
		r, _ := restoreVM(t, v, first, "--mode", mode)
		if err := r.Touch(500, 3); err != nil {
			t.Fatal(err)
		}
		want := whole(t, r)
		var caps []struct {
			Capability string
			State      bool
		}
		if err := r.Execute("query-migrate-capabilities", nil, &caps); err != nil {
			t.Fatal(err)
		}
		for _, c := range caps {
			if c.State {
				t.Errorf("%s: the restored VM has the migration capability %s on", mode, c.Capability)
			}
		}
		saveVM(t, r, second, "--force")
		r.Kill()
		for _, again := range []string{"instant", "eager"} {
			got := must[restore.Result](t, "restore", "--detach", "--mode", again, second)
			w := vm.RunAttached(t, r.Serial, r.QMP)
			if c := whole(t, w); c.Sum != want.Sum {
				t.Errorf("%s, then %s: memory is %v, was %v", mode, again, c, want)
			}
			if got.QMP != r.QMP {
				t.Errorf("%s, then %s: the monitor is at %s, was at %s", mode, again, got.QMP, r.QMP)
			}
			w.Kill()
		}
	}
}
