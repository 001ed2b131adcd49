// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
)

// A recorded command line is a program that somebody wrote: -netdev tap,script=, -chardev pipe and others run or open what they name.
// So it is run only if it can only have come from the user who runs it, or from root.

// recordedArguments returns the arguments that the image recorded, and the directory that their relative paths start from. It refuses
// arguments that this user must not run, and arguments that were not the VM's any more when it was saved.
func recordedArguments(img *image.Image) (words []string, dir string, err error) {
	if img.Seal == nil || len(img.Seal.CommandLine) == 0 {
		return nil, "", fmt.Errorf("%s does not say how its VM was started: give QEMU's arguments after --", img.Path)
	}
	if err := trusted(img.File); err != nil {
		return nil, "", err
	}
	if d := img.Seal.Differs; len(d) > 0 {
		return nil, "", fmt.Errorf("the command line recorded in %s was not that of the VM any more when it was saved (%s): give the arguments for what it was after -- (ramjet inspect shows the recorded ones)", img.Path, strings.Join(d, "; "))
	}
	return img.Seal.CommandLine, img.Seal.Cwd, nil
}

// recordedProgram returns the QEMU that the image recorded or, where that is not to be run, another.
func recordedProgram(o Options, img *image.Image) (string, error) {
	var recorded string
	if img.Seal != nil {
		recorded = img.Seal.Executable
	}
	path, why, err := qemu.Program(recorded)
	if err == nil && why != nil {
		o.log("%s is run and not the recorded program: %v", path, why)
	}
	return path, err
}

// trusted returns why the command line recorded in the image must not be run by this process; nil: it may.
func trusted(image *image.File) error {
	st, err := image.Descriptor.Stat()
	if err != nil {
		return err
	}
	c := recorder{
		image:  int(st.Sys().(*syscall.Stat_t).Uid),
		others: st.Mode().Perm()&0o022 != 0,
		user:   image.Seal.CommandLineUser,
	}
	if err := c.trusted(os.Geteuid()); err != nil {
		return fmt.Errorf("the command line recorded in %s is not run, since %w: read it with ramjet inspect, and give QEMU's arguments after --", image.Path, err)
	}
	return nil
}

// recorder is who may have written a recorded command line.
type recorder struct {
	image  int     // the user who owns the image file
	others bool    // other users may write the image file
	user   *uint32 // the user of the process whose command line it was; nil: not known
}

// trusted returns why the user me must not run what was recorded. The image has to be the user's or root's, and so has the process, but
// root's process counts only in root's image: in the user's own image anybody who gave it to the user may have written "root".
func (c recorder) trusted(me int) error {
	switch {
	case c.image != me && c.image != 0:
		return fmt.Errorf("the image belongs to user %d", c.image)
	case c.others:
		return fmt.Errorf("others than its owner may write the image")
	case c.user == nil:
		return fmt.Errorf("the image does not say whose process it was")
	case int(*c.user) == me || c.image == 0 && *c.user == 0:
		return nil
	}
	return fmt.Errorf("it was that of a process of user %d", *c.user)
}
