// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/export"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestCoreOfPluggedMemory (issue 16, point 8) compares the core of a VM with DIMMs, one of them plugged in while it ran, with QEMU's
// dump: the notes, VMCOREINFO's among them if the guest made one, and the DIMMs at their addresses.
func TestCoreOfPluggedMemory(t *testing.T) {
	v := boot(t, vm.Config{Memory: "256M", ExtraArgs: []string{
		"-m", "256M,slots=3,maxmem=4G", "-device", "vmcoreinfo",
		"-object", "memory-backend-ram,id=d,size=128M", "-device", "pc-dimm,memdev=d",
	}})
	do(t, v.Execute("object-add", map[string]any{"qom-type": "memory-backend-ram", "id": "e", "size": 128 << 20}, nil))
	do(t, v.Execute("device_add", map[string]any{"driver": "pc-dimm", "id": "late", "memdev": "e", "addr": 5 << 30}, nil))
	do(t, v.Stop())
	do(t, v.Poke(4<<30+8192, []byte("in the first DIMM")))
	do(t, v.Poke(5<<30+127<<20, []byte("in the second DIMM")))
	dir := directory(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	saveVM(t, v, at("image"))
	do(t, v.Execute("dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + at("theirs")}, nil))
	r := must[export.Result](t, "export", "--format", "elf", at("image"), at("core"))
	places := map[string]int64{}
	for _, s := range r.Segments {
		places[s.Block] = s.Address
	}
	if places["pc.ram"] != 0 || places["d"] != 4<<30 || places["e"] != 5<<30 {
		t.Errorf("segments %+v", r.Segments)
	}
	mine, qemus := elfFile(t, at("core")), elfFile(t, at("theirs"))
	notes := func(f *elf.File) []byte {
		b, err := io.ReadAll(f.Progs[0].Open())
		do(t, err)
		return b
	}
	if a, b := notes(mine), notes(qemus); !bytes.Equal(a, b) {
		t.Errorf("the notes have %d bytes, QEMU's %d", len(a), len(b))
	} else {
		t.Logf("VMCOREINFO: %v", bytes.Contains(a, []byte("VMCOREINFO")))
	}
	dimms := 0
	for _, p := range qemus.Progs[1:] {
		if p.Paddr < 4<<30 {
			continue
		}
		dimms++
		m := seen{int64(p.Paddr), int64(p.Memsz), 0}
		alike(t, "QEMU's dump", physical(t, mine, m), m.address, physical(t, qemus, m), m.address, m.length)
	}
	if dimms != 2 {
		t.Errorf("QEMU's dump has %d DIMMs", dimms)
	}
	do(t, os.Remove(at("core")))
	t.Run("by name", func(t *testing.T) {
		r := must[export.Result](t, "export", "--format", "elf", "--memory", "pc.ram,d,e", at("image"), at("core"))
		if len(r.Segments) != 3 || r.Segments[1].Address != 4<<30 {
			t.Errorf("segments %+v", r.Segments)
		}
	})
	t.Run("without a seal", func(t *testing.T) {
		migrate(t, v, at("qemus"), ways{})
		r := must[export.Result](t, "export", "--format", "elf", "--memory", "pc.ram,d@0x100000000,e@0x140000000", at("qemus"), at("core2"))
		if len(r.Segments) != 3 || r.Segments[1].Address != 4<<30 || r.Segments[2].Address != 5<<30 {
			t.Errorf("segments %+v", r.Segments)
		}
		refused(t, 1, []string{"cannot read the address"}, "export", "--format", "elf", "--memory", "pc.ram,d@here", at("qemus"), at("core3"))
	})
}

// TestCoreOf32Bits (issue 16, point 8): a guest that is not in 64-bit mode, firmware here, is refused.
func TestCoreOf32Bits(t *testing.T) {
	dir := directory(t)
	f := startFirmware(t, dir, os.Geteuid(), nil, "-S")
	image := filepath.Join(dir, "image")
	must[save.Result](t, "save", "--qmp", f.socket, image)
	refused(t, 1, []string{"not in 64-bit mode"}, "export", "--format", "elf", image, image+".core")
}
