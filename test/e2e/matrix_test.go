// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// everything is what a VM may have besides memory.
var everything = []string{
	"-device", "VGA", "-device", "qemu-xhci", "-device", "usb-tablet", "-object", "rng-random,id=rng0,filename=/dev/urandom",
	"-device", "virtio-rng-pci,rng=rng0", "-device", "virtio-serial-pci",
}

// machines are the VMs that have to come back whatever they are made of.
func machines(t *testing.T) map[string]vm.Config {
	dimm := []string{"-m", "384M,slots=2,maxmem=2G", "-object", "memory-backend-ram,id=dimm0,size=128M", "-device", "pc-dimm,id=plugged0,memdev=dimm0"}
	json := []string{"-machine", "memory-backend=js", "-object", `{"qom-type":"memory-backend-memfd","id":"js","size":268435456,"share":true,"dump":false}`}
	return map[string]vm.Config{
		"q35 anonymous, everything": {Machine: "q35", CPUs: 2, Disk: disk(t), Net: true, Balloon: true, ExtraArgs: everything},
		"pc memfd, disk and net":    {Machine: "pc", Backend: vm.Memfd, Disk: disk(t), Net: true, CPUs: 2},
		"q35 private memfd":         {Machine: "q35", Backend: vm.MemfdPrivate},
		"pc shared file":            {Backend: vm.File},
		"q35 private file":          {Machine: "q35", Backend: vm.FilePrivate},
		"q35 two memfd nodes":       {Machine: "q35", Backend: vm.Memfd, Nodes: 2, CPUs: 2},
		"pc two anonymous nodes":    {Nodes: 2},
		"pc of QEMU 3.1, memfd":     {Machine: "pc-i440fx-3.1", Memory: "256M", Backend: vm.Memfd},
		"q35 backend in JSON":       {Machine: "q35", Memory: "256M", ExtraArgs: json},
		"q35 pc-dimm":               {Machine: "q35", Memory: "384M", ExtraArgs: dimm},
	}
}

// TestMatrix saves each kind of VM with each engine, changes its memory, kills it, and brings it back in each mode, with
// arguments and without. Unless vm.Long it takes half of the machines, and two of the ways to bring each back.
func TestMatrix(t *testing.T) {
	all := machines(t)
	for number, name := range slices.Sorted(maps.Keys(all)) {
		if number%2 > 0 && !vm.Long() {
			continue // TestAnyVM has its like, without a Linux guest
		}
		c := all[name]
		t.Run(name, func(t *testing.T) {
			v := boot(t, c)
			withDisk := c.Disk != ""
			if withDisk {
				do(t, v.WriteDisk(3, 200))
			}
			before := look(t, v, withDisk)
			native, r := saveOf(t, v)
			if r.Engine != "ramjet" {
				t.Errorf("the %s engine saved it", r.Engine)
			}
			byQEMU, _ := saveOf(t, v, "--engine=qemu")
			after := look(t, v, withDisk)
			if after.memory.Sum != before.memory.Sum || after.count <= before.count {
				t.Errorf("the saves made of %+v %+v", before, after)
			}
			// What was zero is not any more, in the files of a file backend too.
			do(t, v.Touch(9000, 1))
			do(t, v.Kill())
			for i, c := range []struct {
				image, mode string
				recorded    bool
			}{
				{native, "instant", false}, {native, "eager", false}, {native, "eager", true}, {native, "instant", true},
				{byQEMU, "eager", false}, {byQEMU, "instant", true},
			} {
				if i%3 != number%3 && !vm.Long() {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d", c.mode, i), func(t *testing.T) {
					g := revive(t, v, c.recorded, c.image, "--mode", c.mode)
					sameGuest(t, g, before, after, withDisk)
					g.Kill()
				})
			}
		})
	}
}
