// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// settle makes a command line one that can be used again: with the directory that it was started in, and what its configuration files say.
func (c *CommandLine) settle(proc string) {
	args := cmdline.ParseArgs(c.Args)
	if relative := args.RelativePaths(); args.LeavesDirectory() && len(relative) > 0 {
		c.Dir = startDirectory(proc, relative)
	}
	read := func(path string) ([]byte, error) { return cmdline.ReadConfig(proc + "/root" + path) }
	expanded, err := args.ExpandConfig(c.Dir, read)
	if err != nil {
		c.config = err
		return
	}
	c.Args = expanded.Words()
}

// Unknown says what of the command line could not be found out, so that a restore needs another one; "" if nothing.
func (c CommandLine) Unknown() string {
	switch {
	case c.config != nil:
		return c.config.Error()
	case c.Dir == "":
		return c.UnknownDirectory()
	}
	return ""
}

// UnknownDirectory says what a command line misses without the directory that it was started in.
func (c CommandLine) UnknownDirectory() string {
	relative := cmdline.ParseArgs(c.Args).RelativePaths()
	if c.Dir != "" || len(relative) == 0 {
		return ""
	}
	return fmt.Sprintf("the VM was started in a directory that it has left (-daemonize or -chroot), so where %s is cannot be told: give QEMU's arguments after --", relative[0])
}
