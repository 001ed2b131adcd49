// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/seal"
)

// A VM that waits for its state is compared with the saved one, since QEMU notices some differences too late and others not at all.

// compareMemory refuses a VM whose RAM blocks have other names or sizes than those saved: QEMU itself would load them all the same
// (parse_ramblock_mapped_ram checks no sizes).
func compareMemory(saved []mappedram.Block, blocks []qemu.RAMBlock) error {
	vm := map[string]int64{}
	for _, b := range blocks {
		vm[b.Name] = b.Used
	}
	for _, b := range saved {
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

// missingMemory is the error for memory that the image has and the VM has not: it says what to add to the command line.
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

// otherSize is the error for memory that has another size in the image than in the VM.
func otherSize(name string, image, vm int64) error {
	if strings.HasSuffix(name, ".rom") {
		return fmt.Errorf("the option ROM %q has %d bytes in the image and %d in this VM: give the device at %s the saved VM's with romfile=FILE (and romsize=%d); a VM whose devices have rombar=0 has none",
			name, image, vm, filepath.Dir(name), image)
	}
	return fmt.Errorf("the memory %q has %d bytes in the image and %d in this VM: start it as the saved one was (-m)", name, image, vm)
}

// compareDisks refuses a VM in which a disk has another size than when it was saved, and warns of a disk that was written to since.
// The paths of its disks start from dir.
func compareDisks(ctx context.Context, o Options, saved *seal.Seal, in *qemu.Incoming, dir string) error {
	if saved == nil || len(saved.Disks) == 0 {
		return nil
	}
	now, err := qemu.ActiveDisks(ctx, in.QMP, dir)
	if err != nil {
		return err
	}
	for _, was := range saved.Disks {
		i := slices.IndexFunc(now, func(d cmdline.ActiveDisk) bool { return d.Device == was.Device })
		if i < 0 {
			continue // QEMU itself misses the device, or the disk has another name
		}
		is := now[i]
		if is.Size != was.Size && is.Size > 0 {
			return fmt.Errorf("the disk %s (%s) has %d bytes, and had %d when the VM was saved: it is another one, or was resized since", was.Device, is.File, is.Size, was.Size)
		}
		if was.Written == nil || !slices.ContainsFunc(is.Chain, func(f string) bool { return qemu.SameFile(f, was.File) }) {
			continue // a copy has a time of its own
		}
		st, err := os.Stat(in.FileOf(was.File))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			return err
		}
		if st.ModTime().After(*was.Written) && o.Warn != nil {
			o.Warn(fmt.Sprintf("the disk %s was written to after the save (at %s, the VM was saved at %s): what the guest knows of it may not be so any more",
				was.File, st.ModTime().UTC().Format(time.DateTime), was.Written.Format(time.DateTime)))
		}
	}
	return nil
}

// compareProcessors refuses a VM with another number of processors than the saved one, which is 0 if it is not known. QEMU itself would
// name a section of the state ("Unknown section or instance 'cpu_common' 1"), or run with processors that the guest has never started.
func compareProcessors(ctx context.Context, in *qemu.Incoming, saved int) error {
	if saved == 0 {
		return nil
	}
	var cpus []struct{}
	if err := in.QMP.Execute(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return fmt.Errorf("cannot ask for the processors: %w", err)
	}
	if len(cpus) != saved {
		return fmt.Errorf("the saved VM had %d processors and this one has %d: start it as the saved one was (-smp %d, or a processor that was plugged in)", saved, len(cpus), saved)
	}
	return nil
}
