// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// compare finds what of the image has no place in the VM, or another size there: QEMU itself would load it all the
// same (parse_ramblock_mapped_ram checks no sizes).
func (r *restore) compare(blocks []qemu.RAMBlock) error {
	vm := map[string]int64{}
	for _, b := range blocks {
		vm[b.Name] = b.Used
	}
	for _, b := range r.image.Blocks {
		size, ok := vm[b.Name]
		switch {
		case !ok:
			return missingMemory(b.Name, b.Length)
		case size != b.Length && !resizable(b.Name):
			return otherSize(b.Name, b.Length, size)
		}
		delete(vm, b.Name)
	}
	if more := slices.Sorted(maps.Keys(vm)); len(more) > 0 {
		return fmt.Errorf("this VM has memory %q that the image has not: start it with the devices of the saved one", more[0])
	}
	return nil
}

// resizable blocks are firmware tables whose length QEMU settles while a machine starts (rom_add_blob).
func resizable(name string) bool { return strings.HasPrefix(name, "/rom@") }

// missingMemory says what is to be added for memory that the image has and the VM has not.
func missingMemory(name string, size int64) error {
	id := strings.TrimPrefix(name, "/objects/")
	device, _, pci := strings.Cut(name, "/")
	switch {
	case strings.HasSuffix(name, ".rom"):
		return fmt.Errorf("the image has memory %q (%d bytes) that this VM has not: the device at %s had an option ROM, so give it one (romfile=FILE, and no rombar=0)", name, size, device)
	case id != name || !strings.ContainsAny(name, "/@."):
		return fmt.Errorf("the image has memory %q (%d bytes) that this VM has not: if it was plugged in while the VM ran, add -object memory-backend-ram,id=%s,size=%s -device pc-dimm,memdev=%s, or the device that it was",
			name, size, id, cmdline.FlagSize(size), id)
	case pci && device != "" && !strings.HasPrefix(name, "/"):
		return fmt.Errorf("the image has memory %q (%d bytes) that this VM has not: start it with the devices of the saved one, with that at %s, which may have been plugged in while the VM ran", name, size, device)
	}
	return fmt.Errorf("the image has memory %q (%d bytes) that this VM has not: start it with the devices of the saved one", name, size)
}

// otherSize says what to do about memory that has another size in the image than in the VM.
func otherSize(name string, image, vm int64) error {
	if strings.HasSuffix(name, ".rom") {
		return fmt.Errorf("the option ROM %q has %d bytes in the image and %d in this VM: give the device at %s the saved VM's with romfile=FILE (and romsize=%d); a VM whose devices have rombar=0 has none",
			name, image, vm, filepath.Dir(name), image)
	}
	return fmt.Errorf("the memory %q has %d bytes in the image and %d in this VM: start it as the saved one was (-m)", name, image, vm)
}
