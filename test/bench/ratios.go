// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Ratio is one of the things that Ramjet is to hold, as this run has it.
type Ratio struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	Least float64 `json:"least,omitempty"` // what it has to be, or
	Most  float64 `json:"most,omitempty"`  // at most
	Holds bool    `json:"holds"`
}

// ratios are all that this run has measured the rows of.
func (r *Report) ratios() []Ratio {
	c := &comparison{report: r}
	c.saves()
	c.loads()
	c.sizes()
	c.costs()
	c.live()
	c.diffs()
	c.clones()
	return c.ratios
}

// comparison collects them.
type comparison struct {
	report *Report
	ratios []Ratio
}

func (c *comparison) atLeast(what string, least, value float64, ok bool) {
	if ok {
		c.ratios = append(c.ratios, Ratio{What: what, Value: value, Least: least, Holds: value >= least})
	}
}

func (c *comparison) atMost(what, unit string, most, value float64, ok bool) {
	if ok {
		c.ratios = append(c.ratios, Ratio{What: what, Value: value, Unit: unit, Most: most, Holds: value <= most})
	}
}

// row is nil if it was not measured.
func (c *comparison) row(name string) *Row {
	for _, row := range c.report.Rows {
		if row.Name == name && len(row.Samples) > 0 {
			return row
		}
	}
	return nil
}

// like are the measured rows of a group whose names begin so.
func (c *comparison) like(group, prefix string) (rows []*Row) {
	for _, row := range c.report.Rows {
		if row.Group == group && strings.HasPrefix(row.Name, prefix) && len(row.Samples) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

// best is the one with the smallest median of f; nil of none.
func best(rows []*Row, f func(Sample) float64) *Row {
	if len(rows) == 0 {
		return nil
	}
	return slices.MinFunc(rows, func(a, b *Row) int {
		x, _, _ := a.median(f)
		y, _, _ := b.median(f)
		return cmp.Compare(x, y)
	})
}

// spread is the largest of the rows' medians by the smallest.
func spread(rows []*Row, f func(Sample) float64) (float64, bool) {
	var all []float64
	for _, row := range rows {
		mid, _, _ := row.median(f)
		all = append(all, mid)
	}
	if len(all) < 2 || slices.Min(all) == 0 {
		return 0, false
	}
	return slices.Max(all) / slices.Min(all), true
}

func (c *comparison) saves() {
	part, ok := over(c.row("ramjet"), c.row("disk write"), Sample.Rate)
	c.atLeast("save of shared memory, of the disk's rate", 0.95, part, ok)
	part, ok = over(c.row("ramjet private"), c.row("disk write"), Sample.Rate)
	c.atLeast("save of private memory, of the disk's rate", 0.75, part, ok)
	// What goes through the page cache is not on the disk when QEMU says that it is done.
	other := func(row *Row) bool {
		return strings.HasPrefix(row.Name, "qemu first") || strings.HasPrefix(row.Name, "qemu buffered")
	}
	later := slices.DeleteFunc(c.like("save", "qemu "), other)
	times, ok := over(best(c.like("save", "qemu first"), total), c.row("ramjet first"), total)
	c.atLeast("first save, times as fast as QEMU's best", 2.5, times, ok)
	times, ok = over(best(later, total), c.row("ramjet"), total)
	c.atLeast("later saves, times as fast as QEMU's best", 1.3, times, ok)
	times, ok = over(best(c.like("save", "libvirt"), total), c.row("ramjet first"), total)
	c.atLeast("first save, times as fast as virsh save's best", 3, times, ok)
}

func (c *comparison) loads() {
	part, ok := over(c.row("ramjet eager"), c.row("disk read"), Sample.Rate)
	c.atLeast("eager restore, of the disk's rate", 0.95, part, ok)
	part, ok = over(c.row("ramjet eager"), c.row("disk read"), Sample.LoadRate)
	c.atLeast("eager restore without QEMU's own start, of the disk's rate", 0.95, part, ok)
	qemu := best(c.like("load", "qemu load"), total)
	times, ok := over(qemu, c.row("ramjet eager"), total)
	c.atLeast("eager restore, times as fast as QEMU's best", 1, times, ok)
	times, ok = over(qemu, c.row("ramjet instant"), total)
	c.atLeast("instant restore, times as soon as QEMU's best", 30, times, ok)
	times, ok = over(best(c.like("warm", "qemu"), total), c.row("ramjet eager warm"), total)
	c.atLeast("eager restore of a cached image, times as fast as QEMU's best", 1, times, ok)
}

func (c *comparison) sizes() {
	times, ok := spread(c.like("instant", ""), total)
	c.atMost("instant restore, largest by smallest over sizes of RAM", "", 1.2, times, ok)
	if rows := c.like("sparse", "ramjet"); len(rows) == 2 {
		times, ok = over(rows[1], rows[0], total)
		c.atMost("save of a large guest by that of a small one with the same in use", "", 1.5, times, ok)
	}
}

func (c *comparison) costs() {
	qemu := best(c.like("save", "qemu first"), Sample.Work)
	part, ok := over(c.row("ramjet first"), qemu, Sample.Work)
	c.atMost("CPU seconds per GiB of a first save, of QEMU's best", "", 1, part, ok)
	qemu = best(c.like("load", "qemu load"), Sample.Work)
	part, ok = over(c.row("ramjet eager"), qemu, Sample.Work)
	c.atMost("CPU seconds per GiB of an eager restore, of QEMU's best", "", 1, part, ok)
	most := 0.0
	for _, row := range c.report.Rows {
		_, _, high := row.median(func(s Sample) float64 { return float64(s.Memory) / (1 << 20) })
		most = max(most, high)
	}
	c.atMost("most that ramjet had resident in any row", "MiB", 64, most, most > 0)
}

func (c *comparison) live() {
	part, ok := over(c.row("ramjet live"), c.row("ramjet stopped"), pauseOf)
	c.atMost("pause of a live save, of the pause without --live", "", 0.1, part, ok)
}

// diffs compares with full saves for the guest that has dirtied a hundredth of its own memory, the second of three.
func (c *comparison) diffs() {
	for _, kind := range []string{"diff ", "diff scattered "} {
		var diffs []*Row
		for _, g := range c.report.groups() {
			size, ok := strings.CutPrefix(g.name, "diff ")
			row := c.row("ramjet " + kind + size)
			if !ok || size == "sums" || row == nil {
				continue
			}
			if diffs = append(diffs, row); len(diffs) == 2 {
				part, ok := over(row, c.row("ramjet full "+size), durable)
				c.atMost(kind+size+", time of a full save's", "", 0.05, part, ok)
				part, ok = over(row, c.row("ramjet full "+size), moved)
				c.atMost(kind+size+", bytes of a full save's", "", 0.05, part, ok)
			}
		}
		times, ok := spread(diffs, durable)
		c.atMost(kind+"over sizes of RAM, largest time by smallest", "", 1.3, times, ok)
	}
	part, ok := over(c.row("ramjet diff sums"), c.row("ramjet base"), durable)
	c.atMost("diff by sums, time of a full save's", "", 1, part, ok)
}

func (c *comparison) clones() {
	row := c.row("ramjet clone 10")
	if row == nil {
		return
	}
	seconds, _, _ := row.median(total)
	c.atMost("ten clones run after", "s", 2, seconds, true)
	pss, _, _ := row.median(func(s Sample) float64 { return float64(s.Pss) / (1 << 20) })
	c.atMost("memory of an idle clone (Pss)", "MiB", 60, pss, pss > 0)
}

func (r *Report) printRatios(b *strings.Builder) {
	if len(r.Ratios) > 0 {
		b.WriteString("\nWhat is to hold for a guest of 4G with 2560 MiB in use, median of 5 rounds, on a machine that does nothing else:\n")
	}
	for _, x := range r.Ratios {
		want, verdict := fmt.Sprintf("at most %g", x.Most), ""
		if x.Least > 0 {
			want = fmt.Sprintf("at least %g", x.Least)
		}
		if !x.Holds {
			verdict = "  not here"
		}
		fmt.Fprintf(b, "  %8.3f %-4s %-14s %s%s\n", x.Value, x.Unit, want, x.What, verdict)
	}
}
