// SPDX-License-Identifier: Apache-2.0

// Command ramjet saves a running QEMU virtual machine's memory to a file and brings it back.
package main

import (
	"os"

	"github.com/ramjet-vm/ramjet/internal/cli"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
)

func main() {
	save.RunAttendant()
	restore.RunAttendant()
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
