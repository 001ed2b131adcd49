// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestNVDIMM (15.13) restores a VM with an NVDIMM: not in instant mode, and in eager mode only when nobody else has its file.
func TestNVDIMM(t *testing.T) {
	vm.Need(t)
	dir, other := directory(t), directory(t)
	file, image := filepath.Join(dir, "nv"), filepath.Join(other, "image")
	do(t, os.WriteFile(file, append([]byte("before"), make([]byte, 4<<20-6)...), 0o600))
	args := []string{"-machine", "pc,nvdimm=on", "-m", "16M,slots=2,maxmem=1G",
		"-object", "memory-backend-file,id=nvm,size=4M,share=on,mem-path=" + file, "-device", "nvdimm,id=nv0,memdev=nvm"}
	pid := bareQEMU(t, dir, args...)
	must[save.Result](t, "save", "--qmp", filepath.Join(dir, "qmp"), image)
	restoring := func(mode string) []string {
		return append([]string{"restore", "--detach", "--json", "--mode", mode, image, "--", vm.Program()}, bareArgs(other, args...)...)
	}
	refused(t, 1, []string{file, "process"}, restoring("instant")[:]...)
	refused(t, 1, []string{file, "process"}, restoring("eager")...)
	execute(t, filepath.Join(dir, "qmp"), "quit", nil, nil)
	gone(t, pid)
	refused(t, 1, []string{"nvm", "nvdimm nv0", "--mode=eager"}, restoring("instant")...)
	do(t, os.WriteFile(file, make([]byte, 4<<20), 0o600))
	o := ramjet(t, restoring("eager")...)
	var r restore.Result
	if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
		t.Fatalf("status %d, says %q", o.status, o.err)
	}
	t.Cleanup(func() { kill(r.PID) })
	if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), "before") {
		t.Errorf("the NVDIMM's file does not have what was saved: %.10q, %v", b, err)
	}
}

// TestFreePageReporting (15.13) restores instantly, in the foreground, a guest that reports pages that became free: QEMU cannot give
// them back, and nothing of that is to be seen.
func TestFreePageReporting(t *testing.T) {
	v := boot(t, vm.Config{Memory: "256M", Fill: 60, ExtraArgs: []string{"-device", "virtio-balloon-pci,free-page-reporting=on"}})
	image, _ := saveOf(t, v)
	do(t, v.Kill())
	dir := directory(t)
	r := start(t, append([]string{"restore", image, "--", v.Program}, v.ArgsIn(dir)...)...)
	g := waitFor(t, r, dir)
	do(t, g.Free(5000, 8000))
	time.Sleep(4 * time.Second) // reports come two seconds after pages became free (page_reporting.c)
	whole(t, g)
	g.PowerOff()
	if o := r.end(t); o.status != 0 || o.err != "" {
		t.Errorf("status %d, says %.300q", o.status, o.err)
	}
}
