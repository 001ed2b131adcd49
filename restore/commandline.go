// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// settleCommandLine makes the command line of the new VM: from the words after "--", or else from what the image recorded.
func settleCommandLine(o Options, img *image.Image) (l qemu.Launch, err error) {
	wrapper, program, words := cmdline.SplitCommand(o.Command)
	l.Wrapper, l.Detach, l.Calls = o.numbered(wrapper), o.Detach, o.Calls
	if o.Socket != "" {
		if l.Socket, err = filepath.Abs(o.Socket); err != nil {
			return l, err
		}
	}
	switch {
	case len(wrapper) > 0:
		l.Executable = program // the wrapper may have another PATH
	case program != "":
		l.Executable, err = qemu.FindExecutable(program)
	default:
		l.Executable, err = recordedProgram(o, img)
	}
	if err != nil {
		return l, err
	}
	if o.Command == nil {
		words, l.Dir, err = recordedArguments(img)
	}
	if err == nil {
		l.Args, err = o.changed(words)
	}
	if err == nil && o.Command == nil {
		err = checkRecorded(img, l.Args)
	}
	if err == nil {
		l.Args, err = fitArguments(l, img)
	}
	return l, err
}

// changed returns QEMU's arguments with what the user sets, and with a clone's number.
func (o Options) changed(words []string) ([]string, error) {
	args, err := cmdline.ParseArgs(words).Set(o.Set...)
	return o.numbered(args.Words()), err
}

// numbered returns words with a clone's number in place of {n}.
func (o Options) numbered(words []string) []string {
	if o.number == "" {
		return words
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = strings.ReplaceAll(w, "{n}", o.number)
	}
	return out
}

// checkRecorded refuses recorded arguments, with what the user has set in them, that cannot be run as they are: that lack a secret,
// or whose relative paths would be looked for in another directory than the saved VM's.
func checkRecorded(img *image.Image, args []string) error {
	if blanked := cmdline.Blanked(args); len(blanked) > 0 {
		return fmt.Errorf("the command line recorded in %s is without its secrets, which are never saved: make %s complete with --set, or give the command line after -- (ramjet inspect shows it)",
			img.Path, strings.Join(blanked, " and "))
	}
	dir := img.Seal.Cwd
	c := qemu.CommandLine{Args: args, Dir: dir}
	if unknown := c.UnknownDirectory(); unknown != "" {
		return errors.New(unknown)
	}
	if dir == "" {
		return nil
	}
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	return fmt.Errorf("the command line recorded in %s is to be run in the directory %s, which is not there any more: go to the directory of the VM's files and give QEMU's arguments after -- (ramjet inspect shows them)",
		img.Path, dir)
}

// fitArguments returns arguments with which the image can be loaded: with the options from the files that they name (-readconfig),
// and the machine type of the image. It refuses descriptors that the saved VM inherited, which no other process has.
func fitArguments(l qemu.Launch, img *image.Image) ([]string, error) {
	dir := l.Dir
	if dir == "" {
		var err error
		if dir, err = os.Getwd(); err != nil {
			return nil, err
		}
	}
	args, err := cmdline.ParseArgs(l.Args).ExpandConfig(dir, cmdline.ReadConfig)
	if err != nil {
		return nil, err
	}
	if err := args.RefuseInherited(); err != nil {
		return nil, err
	}
	args, err = args.PinMachine(img.Config.MachineType)
	return args.Words(), err
}
