// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestOtherProcessors restores with another number of processors, or another machine, than was saved: what is to be changed is said, and
// not QEMU's name for a section of the state. (Issue 16, section 3.)
func TestOtherProcessors(t *testing.T) {
	dir := directory(t)
	for _, saved := range []int{1, 2} {
		f := startFirmware(t, directory(t), os.Geteuid(), nil, "-S", "-smp", fmt.Sprint(saved))
		image := filepath.Join(dir, fmt.Sprint(saved))
		must[save.Result](t, "save", "--qmp", f.socket, image)
		for _, now := range []int{1, 2, 3} {
			args := []string{"restore", "--detach", "--json", "--qmp", filepath.Join(dir, "qmp"), image, "--", vm.Program(),
				"-machine", "pc", "-accel", vm.Accelerator(), "-m", "8M", "-nodefaults", "-display", "none", "-smp", fmt.Sprint(now)}
			if now == saved {
				r := mustBe[restore.Result](t, ramjet(t, args...))
				kill(r.PID)
				gone(t, r.PID)
				continue
			}
			args[2] = "--paused"
			refused(t, 1, []string{fmt.Sprintf("had %d processors", saved), fmt.Sprintf("has %d", now), fmt.Sprintf("-smp %d", saved)}, args...)
		}
		refused(t, 1, []string{"-machine pc-i440fx"}, "restore", image, "--", "-machine", "q35", "-accel", vm.Accelerator(), "-m", "8M", "-nodefaults", "-display", "none", "-smp", fmt.Sprint(saved))
	}
}

// mustBe reads the JSON result of a ramjet that has to have succeeded.
func mustBe[T any](t *testing.T, o outcome) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.out), &v); o.status != 0 || err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return v
}
