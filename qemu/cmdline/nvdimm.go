// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"fmt"
	"strings"
)

// memoryDevice is a -device that plugs the memory of a backend.
type memoryDevice struct {
	driver  string // nvdimm, virtio-mem-pci, virtio-pmem-pci, pc-dimm
	id      string
	backend string // its memdev
}

// memoryDevices finds them.
func (args Args) memoryDevices() (found []memoryDevice) {
	for _, a := range args {
		if a.Name != "device" {
			continue
		}
		p := ParseProperties(a.Value, "driver")
		if memdev := p.Get("memdev"); memdev != "" {
			found = append(found, memoryDevice{p.Get("driver"), p.Get("id"), memdev})
		}
	}
	return found
}

// persistent reports whether what the guest writes to the memory is to be found in its file later.
func (d memoryDevice) persistent() bool {
	return d.driver == "nvdimm" || strings.HasPrefix(d.driver, "virtio-pmem")
}

// nvdimmDisk is the file of option i, an -object, if it is the memory of an NVDIMM: a disk to the guest.
func (args Args) nvdimmDisk(i int) (Disk, bool) {
	p := ParseProperties(args[i].Value, "qom-type")
	if p.Get("qom-type") != "memory-backend-file" || p.Get("mem-path") == "" {
		return Disk{}, false
	}
	for _, d := range args.memoryDevices() {
		if d.persistent() && d.backend == p.Get("id") {
			return Disk{
				Arg: i, Path: p.Get("mem-path"), Format: "raw", Name: strings.TrimSpace("NVDIMM " + d.id), Fixed: true,
				ReadOnly: !isOn(p, "share") || isOn(p, "readonly"),
			}, true
		}
	}
	return Disk{}, false
}

// refuseMapping refuses to map the block of a backend from an image where that cannot be done right.
func (args Args) refuseMapping(block string) error {
	for _, d := range args.memoryDevices() {
		if d.backend != strings.TrimPrefix(block, "/objects/") {
			continue
		}
		if d.persistent() {
			return fmt.Errorf("block %s is the memory of the device %s %s, whose file would not get what the guest writes to it when it is mapped from an image: use --mode=eager",
				block, d.driver, d.id)
		}
	}
	return nil
}

// memoryOfDisk reports whether the backend of that id is the memory of an NVDIMM, which is found among the disks.
func (args Args) memoryOfDisk(id string) bool {
	for _, d := range args.memoryDevices() {
		if d.persistent() && d.backend == id {
			return true
		}
	}
	return false
}
