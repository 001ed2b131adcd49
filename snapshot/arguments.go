// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu"
)

// settleArguments makes of the saved VM's arguments those that its image can be loaded with: options from the files that they
// name, the image's own machine type; and refuses what no other process can have.
func (r *restore) settleArguments() error {
	dir := r.launch.Dir
	if dir == "" {
		var err error
		if dir, err = os.Getwd(); err != nil {
			return err
		}
	}
	args, err := qemu.ParseArgs(r.launch.Args).ExpandConfig(dir, qemu.ReadConfig)
	if err != nil {
		return err
	}
	if err := args.RefuseInherited(); err != nil {
		return err
	}
	if args, err = args.PinMachine(r.image.Config.MachineType); err != nil {
		return err
	}
	r.launch.Args = args.Words()
	return nil
}

// knownDirectory refuses a recorded command line with relative paths of which nobody knows what they start from.
func knownDirectory(words []string, dir string) error {
	c := qemu.CommandLine{Args: words, Dir: dir}
	if unknown := c.UnknownDirectory(); unknown != "" {
		return errors.New(unknown)
	}
	return nil
}

// missingMemory says what is to be added for memory that the image has and the VM has not.
func missingMemory(name string, size int64) error {
	id := strings.TrimPrefix(name, "/objects/")
	device, _, pci := strings.Cut(name, "/")
	switch {
	case strings.HasSuffix(name, ".rom"):
		return fmt.Errorf("the image has memory %q (%d bytes) that this VM has not: the device at %s had an option ROM, so give it one (romfile=FILE, and no rombar=0)", name, size, device)
	case id != name || !strings.ContainsAny(name, "/@."):
		return fmt.Errorf("the image has memory %q (%d bytes) that this VM has not: if it was plugged in while the VM ran, add -object memory-backend-ram,id=%s,size=%s -device pc-dimm,memdev=%s, or the device that it was",
			name, size, id, qemu.FlagSize(size), id)
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
