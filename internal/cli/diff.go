// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/inspect"
)

func (a *app) diff() *cobra.Command {
	var o inspect.DiffOptions
	var m mapFlag
	ranges := false
	c := &cobra.Command{
		Use:   "diff [flags] IMAGE IMAGE",
		Short: "Show which pages of two images differ",
		Long: `Compare the guest memory and the device state of two images, block by block. The pages of a sealed image are not read, because
its seal has their checksums. A diff is compared together with its base.

The exit status is 0 whether the images differ or not; --json has the answer in "same" and "pages_differ".`,
		Example: `  ramjet diff before.img after.img
  ramjet diff --ranges before.img after.img
  ramjet diff --map before.img after.img
  ramjet diff --json before.img after.img | jq -e .same`,
		Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			lean()
			o.A, o.B, o.Map = args[0], args[1], m.cells(a)
			done := a.show(&o.Progress)
			r, err := inspect.Diff(c.Context(), o)
			done()
			if err != nil {
				return err
			}
			drawn, err := a.mapped(r.Map, m)
			return a.printBeside(r, differing(r, ranges)+drawn, err)
		},
	}
	f := c.Flags()
	m.register(c)
	f.BoolVar(&ranges, "ranges", false, "list the ranges of pages that differ, and where the guest sees them")
	f.StringVar(&o.Base, "base", "", "where the base of a diff is now: `IMAGE` (default: where it was, or beside the diff)")
	return c
}

// differing is a result in words.
func differing(r *inspect.DiffResult, ranges bool) string {
	var s strings.Builder
	how := func(i inspect.DiffImage) string {
		return map[bool]string{true: "by the sums in its seal", false: "read, it has no seal"}[i.Sums]
	}
	sayf(&s, "a: %s (%s)\nb: %s (%s)\n", r.A.Image, how(r.A), r.B.Image, how(r.B))
	if r.A.Machine != r.B.Machine {
		sayf(&s, "machines differ: %s and %s\n", r.A.Machine, r.B.Machine)
	}
	sayf(&s, "%d of %d pages differ (%s, %s), the device state %s\n\n", r.PagesDiffer, r.PagesTotal,
		percent(r.PagesDiffer, r.PagesTotal), size(r.BytesDiffer), map[bool]string{true: "differs", false: "is the same"}[r.DevicesDiffer])
	w := tabwriter.NewWriter(&s, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "pages\tdiffer\t\t  block\n")
	for i, b := range r.Blocks {
		if i == shownBlocks {
			fmt.Fprintf(w, "\t\t\t  and %d more\n", len(r.Blocks)-shownBlocks)
			break
		}
		only := ""
		if b.OnlyIn != "" {
			only = " (only in " + b.OnlyIn + ")"
		}
		sayf(w, "%d\t%d\t%s\t  %s%s\n", b.PagesTotal, b.PagesDiffer, percent(b.PagesDiffer, b.PagesTotal), b.Name, only)
	}
	w.Flush()
	if ranges {
		s.WriteString("\nfirst page, number of pages, guest-physical address, block:\n")
		for _, g := range r.Ranges {
			address := "-"
			if g.Address >= 0 {
				address = fmt.Sprintf("%#x", g.Address)
			}
			sayf(&s, "%d %d %s %s\n", g.First, g.Pages, address, g.Block)
		}
		if !r.RangesComplete {
			sayf(&s, "and more: these are the first %d ranges\n", len(r.Ranges))
		}
	}
	return s.String()
}
