// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"errors"
	"os"

	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
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
	args, err := cmdline.ParseArgs(r.launch.Args).ExpandConfig(dir, cmdline.ReadConfig)
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
