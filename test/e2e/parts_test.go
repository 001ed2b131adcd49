// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
)

// TestVirtioMem saves a VM with virtio-mem, which sends a section before the parts of the memory: by QEMU's own engine, as auto
// chooses by itself. The image is whole, can be restored, and be made flat.
//
// (15.13) The memory that the device plugs is not mapped from the image in either mode: the device could not give it back to the host.
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
	for _, c := range []struct{ image, mode string }{{img, "eager"}, {flat, "eager"}, {img, "instant"}} {
		args := append([]string{"restore", "--detach", "--json", "--prefetch=off", "--mode", c.mode, "--qmp", b.dir + "/restored", c.image, "--"}, machine...)
		o := ramjet(t, append(args, "-nodefaults", "-display", "none")...)
		var r restore.Result
		if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
			t.Fatalf("restore says %q %q", o.out, o.err)
		}
		if r.Status != "running" {
			t.Errorf("the restored VM is %s", r.Status)
		}
		for block, mapped := range map[string]bool{"pc.ram": c.mode == "instant", "0000:00:01.0/vmem0": false} {
			if line := mappingOf(t, r, block); strings.HasSuffix(line, c.image) != mapped {
				t.Errorf("%s restore: block %s is %s", c.mode, block, line)
			}
		}
		kill(r.PID)
		gone(t, r.PID)
	}
}

// mappingOf returns the line of /proc/PID/maps for the beginning of a block of a restored VM.
func mappingOf(t *testing.T, r restore.Result, block string) string {
	t.Helper()
	m, err := qmp.Dial(t.Context(), r.QMP)
	do(t, err)
	defer m.Close()
	blocks, err := qemu.QueryRAMBlocks(t.Context(), m)
	do(t, err)
	i := slices.IndexFunc(blocks, func(b qemu.RAMBlock) bool { return b.Name == block })
	if i < 0 {
		t.Fatalf("the VM has no block %s", block)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", r.PID))
	do(t, err)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err == nil && from <= uint64(blocks[i].Addr) && uint64(blocks[i].Addr) < to {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("block %s is at no mapping", block)
	return ""
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
