// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/test/demo"
)

func (a *app) demo() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show all of it on a real Linux guest",
		Long: `Boot a Linux guest, let it work, save it, kill it, restore it, and have it say that its memory is right.

Needs QEMU and a guest kernel, which "make demo" in Ramjet's source gets; without them it does the same with memory of its own.`,
		Example: "  ramjet demo\n  ramjet demo --dir /var/lib/vms",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			out := a.out
			if a.json {
				out = io.Discard // what it shows is for people
			}
			if err := demo.Run(c.Context(), demo.Config{Program: program, Dir: dir, Out: out}); err != nil {
				return err
			}
			if !a.json {
				return nil
			}
			return a.print(map[string]bool{"ok": true}, "")
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "keep the image in `DIR` meanwhile (default: the temporary directory)")
	return c
}
