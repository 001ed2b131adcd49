// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table prints the report for people.
func (r *Report) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: guest of %s, %s in use, %s rounds, medians; it took %.0f minutes\n", r.Date.Format("2006-01-02 15:04 MST"),
		r.Config["memory"], r.Config["fill"], r.Config["rounds"], r.Seconds/60)
	var machine []string
	for k, v := range r.Machine {
		machine = append(machine, k+" "+v)
	}
	slices.Sort(machine)
	b.WriteString(strings.Join(machine, "; ") + "\n\n")
	r.printRows(&b)
	r.printRatios(&b)
	b.WriteString("\nWhat the rows are:\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "  %-*s %s\n", r.nameWidth(), row.Name, row.What)
		if row.Error != "" {
			fmt.Fprintf(&b, "  %-*s   not measured in all rounds: %s\n", r.nameWidth(), "", strings.ReplaceAll(row.Error, "\n", "; "))
		}
	}
	return b.String()
}

func (r *Report) nameWidth() (width int) {
	for _, row := range r.Rows {
		width = max(width, len(row.Name))
	}
	return width
}

// printRows prints all rows in the same columns, each group under its title.
func (r *Report) printRows(b *strings.Builder) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  row\tpause s\ttotal s\tmin-max\tdurable s\tMB/s\trelative\tstored MiB\tCPU s\tCPU s/GiB\tpeak MiB\tcache MiB")
	groups := r.groups()
	for _, g := range groups {
		for _, row := range g.rows {
			fmt.Fprintln(w, "  "+strings.Join(g.columns(row), "\t"))
		}
	}
	w.Flush()
	lines := strings.SplitAfter(text.String(), "\n")
	b.WriteString(lines[0])
	lines = lines[1:]
	for _, g := range groups {
		fmt.Fprintf(b, "%s (relative: %s)\n%s", g.title, g.says(), strings.Join(lines[:len(g.rows)], ""))
		lines = lines[len(g.rows):]
	}
}

func (g *group) columns(row *Row) []string {
	middle := func(f func(Sample) float64, format string) string {
		if mid, _, _ := row.median(f); mid != 0 {
			return fmt.Sprintf(format, mid)
		}
		return "-"
	}
	relative := "-"
	if part, ok := g.relative(row); ok {
		relative = percent(part)
	}
	mid, low, high := row.median(total)
	const mib = 1 << 20
	return []string{
		row.Name, middle(pauseOf, "%.3f"), fmt.Sprintf("%.3f", mid), fmt.Sprintf("%.3f-%.3f", low, high), middle(durable, "%.3f"),
		middle(func(s Sample) float64 { return s.Rate() / 1e6 }, "%.0f"), relative,
		middle(func(s Sample) float64 { return float64(s.Bytes) / mib }, "%.0f"),
		middle(func(s Sample) float64 { return s.CPU }, "%.2f"), middle(Sample.Work, "%.2f"),
		middle(func(s Sample) float64 { return float64(s.Memory) / mib }, "%.0f"),
		middle(func(s Sample) float64 { return float64(s.Cache) / mib }, "%.0f"),
	}
}
