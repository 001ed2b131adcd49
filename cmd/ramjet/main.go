// SPDX-License-Identifier: Apache-2.0

// Command ramjet saves a running QEMU virtual machine's memory to a file and brings it back.
package main

import (
	"os"

	"github.com/ramjet-vm/ramjet/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
