// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// median of f over the samples, with the smallest and the largest.
func (r *Row) median(f func(Sample) float64) (mid, low, high float64) {
	if len(r.Samples) == 0 {
		return 0, 0, 0
	}
	v := make([]float64, len(r.Samples))
	for i, s := range r.Samples {
		v[i] = f(s)
	}
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]
}

// Total and Rate of a sample, to be given to Median.
func total(s Sample) float64 { return s.Total }

// Table prints the report for people. The last column compares with the plain loop of the same group.
func (r *Report) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: guest of %s, %s in use, %s rounds, medians\n", r.Date.Format("2006-01-02 15:04 MST"), r.Config["memory"], r.Config["fill"], r.Config["rounds"])
	var keys []string
	for k := range r.Machine {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "%s %s; ", k, r.Machine[k])
	}
	b.WriteString("\n\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\tpause s\ttotal s\tmin-max\tdurable s\tMB/s\tof disk\tCPU s\tpeak MiB\tcache MiB\t")
	for _, row := range r.Rows {
		if len(row.Samples) == 0 {
			fmt.Fprintf(w, "%s\t%s\t\n", row.Name, row.Error)
			continue
		}
		mid, low, high := row.median(total)
		rate, _, _ := row.median(Sample.Rate)
		pause, _, _ := row.median(func(s Sample) float64 { return s.Pause })
		durable, _, _ := row.median(func(s Sample) float64 { return s.Durable })
		cpu, _, _ := row.median(func(s Sample) float64 { return s.CPU })
		mem, _, _ := row.median(func(s Sample) float64 { return float64(s.Memory) / (1 << 20) })
		cache, _, _ := row.median(func(s Sample) float64 { return float64(s.Cache) / (1 << 20) })
		fmt.Fprintf(w, "%s\t%s\t%.3f\t%.3f-%.3f\t%s\t%.0f\t%s\t%.2f\t%s\t%.0f\t\n", row.Name, figure(pause, "%.3f"), mid, low, high,
			figure(durable, "%.3f"), rate/1e6, r.ofDisk(row, rate), cpu, figure(mem, "%.0f"), cache)
	}
	w.Flush()
	b.WriteString("\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "%-20s %s\n", row.Name, row.What)
	}
	return b.String()
}

func figure(v float64, format string) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// ofDisk is a row's rate as a part of the plain loop's.
func (r *Report) ofDisk(row *Row, rate float64) string {
	for _, d := range r.Rows {
		if d.Group == row.Group && (d.Name == "disk write" || d.Name == "disk read") && len(d.Samples) > 0 {
			disk, _, _ := d.median(Sample.Rate)
			return fmt.Sprintf("%.0f%%", 100*rate/disk)
		}
	}
	return "-"
}
