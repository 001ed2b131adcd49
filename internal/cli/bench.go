// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/test/bench"
)

func (a *app) bench() *cobra.Command {
	o, plot := bench.Config{}, ""
	c := &cobra.Command{
		Use:   "bench [flags]",
		Short: "Measure it against QEMU, libvirt and the disk, here",
		Long: `Boot a Linux guest and save and load it in turn with Ramjet and with QEMU's own migration to a file, beside the bare disk,
on the file system of --dir. Figures are medians; compare only within one run. Rows stand in groups: the column "relative"
compares with the first row of the group, and what Ramjet is to hold is listed at the end.

Needs QEMU and a guest kernel (make setup in Ramjet's source), and free memory and disk space of four times the guest's
memory.`,
		Example: `  ramjet bench
  ramjet bench --memory 8G --fill 5120 --rounds 7 --dir /var/lib/vms
  ramjet bench --only "disk write" --only ramjet --json
  ramjet bench --svg bench.svg
  ramjet bench --quick --verbose`,
		Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.Program, err = os.Executable(); err != nil {
				return err
			}
			if o.Quick {
				quicken(&o, c.Flags().Changed)
			}
			o.Log = func(s string) {
				if isTerminal(a.err) || a.verbose {
					fmt.Fprintln(a.err, s)
				}
			}
			r, err := bench.Run(c.Context(), o)
			if err != nil {
				return err
			}
			if plot != "" {
				if err := os.WriteFile(plot, []byte(r.SVG()), 0o644); err != nil {
					return err
				}
			}
			return a.print(r, r.Table())
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", ".", "write to the file system of `DIR`")
	f.StringVar(&o.Memory, "memory", "4G", "the guest's memory, `SIZE` as QEMU's -m takes it")
	f.IntVar(&o.Fill, "fill", 2560, "`MIB` of it that are in use")
	f.IntVar(&o.Rounds, "rounds", 5, "how often each is measured")
	f.BoolVar(&o.Quick, "quick", false, "see that all can be measured: fewer rows, and a small guest and one round unless others are asked for")
	f.StringVar(&plot, "svg", "", "draw the result into `FILE` too")
	f.StringArrayVar(&o.Only, "only", nil, "measure only rows whose name begins with `NAME` (repeatable)")
	return c
}

// quicken takes less of everything that was not asked for.
func quicken(o *bench.Config, given func(flag string) bool) {
	if !given("rounds") {
		o.Rounds = 1
	}
	if !given("memory") && !given("fill") {
		o.Memory, o.Fill = bench.QuickMemory, bench.QuickFill
	}
}
