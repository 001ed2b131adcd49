// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
)

// TestVirtioMem saves a VM with virtio-mem, which sends a section before the parts of the memory: by QEMU's own engine, as auto
// chooses by itself. The image is whole, can be restored, and be made flat.
func TestVirtioMem(t *testing.T) {
	machine := []string{"-machine", "q35", "-m", "64M,maxmem=1G", "-object", "memory-backend-ram,id=vmem0,size=256M",
		"-device", "virtio-mem-pci,id=vm0,memdev=vmem0,requested-size=32M"}
	b := startBare(t, machine...)
	img := b.dir + "/image"
	r := must[save.Result](t, "save", "--qmp", b.socket, img)
	if r.Engine != save.EngineQEMU || b.status(t) != "running" {
		t.Errorf("saved by %s, the VM is %s", r.Engine, b.status(t))
	}
	must[image.VerifyResult](t, "verify", img)
	flat := b.dir + "/flat"
	if o := ramjet(t, "export", "--format=flat", img, flat); o.status != 0 {
		t.Fatalf("export says %s", o.err)
	}
	for _, image := range []string{img, flat} {
		args := append([]string{"restore", "--detach", "--json", "--mode=eager", "--qmp", image + ".qmp", image, "--"}, machine...)
		o := ramjet(t, append(args, "-nodefaults", "-display", "none")...)
		var r restore.Result
		if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
			t.Fatalf("restore says %q %q", o.out, o.err)
		}
		t.Cleanup(func() { kill(r.PID) })
		if r.Status != "running" {
			t.Errorf("the restored VM is %s", r.Status)
		}
	}
}

// TestSectionsInParts: an image with a section in parts is no damaged one. It is refused as one that cannot be taken apart here.
func TestSectionsInParts(t *testing.T) {
	b := startBare(t, "-machine", "pc", "-m", "8M", "-S")
	(ways{}).set(t, b.monitor)
	b.run(t, "migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "dirty-bitmaps", "state": true}}}, nil)
	image := b.dir + "/image"
	b.run(t, "migrate", map[string]any{"uri": "file:" + image}, nil)
	if s, why := migrated(t, b.monitor); s != "completed" {
		t.Fatal(s, why)
	}
	for _, args := range [][]string{{"inspect", image}, {"verify", image}, {"seal", image}, {"restore", image}, {"export", "--format=raw", image, b.dir + "/out"}} {
		refused(t, 1, []string{"cannot be taken apart here", "dirty-bitmap"}, args...)
	}
}
