// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
)

// median of f over the samples, with the smallest and the largest.
func (r *Row) median(f func(Sample) float64) (mid, low, high float64) {
	if len(r.Samples) == 0 {
		return 0, 0, 0
	}
	var v []float64
	for _, s := range r.Samples {
		v = append(v, f(s))
	}
	return median(v), slices.Min(v), slices.Max(v)
}

// median is 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func total(s Sample) float64   { return s.Total }
func pauseOf(s Sample) float64 { return s.Pause }
func durable(s Sample) float64 { return s.Durable }
func moved(s Sample) float64   { return float64(s.Bytes) }

// group is rows that compare with one of them.
type group struct {
	name  string
	rows  []*Row // that have samples
	title string
	by    func(Sample) float64 // what it is about, in seconds
}

var groupTitles = []struct {
	prefix, title string
	by            func(Sample) float64
}{
	{"save", "save: until the last byte is written", total},
	{"load", "load: until the guest runs, image not cached", total},
	{"warm", "load of an image that is in the page cache", total},
	{"instant", "instant restore of guests of several sizes with the same in use", total},
	{"sparse", "save of guests of several sizes with the same in use", total},
	{"live", "save of a guest that works: its pause", pauseOf},
	{"diff", "diff beside a full save: until durable", durable},
	{"clone", "clones: until all run", total},
}

// groups are all that have something to show, in the order of their first rows.
func (r *Report) groups() (all []*group) {
	for _, row := range r.Rows {
		if len(row.Samples) == 0 {
			continue
		}
		i := slices.IndexFunc(all, func(g *group) bool { return g.name == row.Group })
		if i < 0 {
			i = len(all)
			all = append(all, newGroup(row.Group))
		}
		all[i].rows = append(all[i].rows, row)
	}
	return all
}

func newGroup(name string) *group {
	for _, t := range groupTitles {
		if rest, ok := strings.CutPrefix(name, t.prefix); ok {
			title := t.title
			if rest != "" {
				title = name + ": " + strings.TrimPrefix(title, t.prefix+" ")
			}
			return &group{name: name, title: title, by: t.by}
		}
	}
	return &group{name: name, title: name, by: total}
}

// reference is the row with which the others are compared: the first one.
func (g *group) reference() *Row { return g.rows[0] }

// ofDisk reports whether the reference is the disk itself. Then rates are compared, since not all rows move the same number of bytes.
func (g *group) ofDisk() bool { return strings.HasPrefix(g.reference().Name, "disk ") }

// says tells what the table's last column compares.
func (g *group) says() string {
	if g.ofDisk() {
		return "rate as part of that of " + g.reference().Name
	}
	return "time as part of that of " + g.reference().Name
}

// relative is the median of what the row is in relation to the reference, each round's with the same round's. ok is false where
// that says nothing.
func (g *group) relative(row *Row) (part float64, ok bool) {
	if g.ofDisk() {
		return over(row, g.reference(), Sample.Rate)
	}
	return over(row, g.reference(), g.by)
}

// over divides what a has by what b has in the same round, and takes the median; of runs that were not all measured the medians are
// divided.
func over(a, b *Row, f func(Sample) float64) (float64, bool) {
	if a == nil || b == nil {
		return 0, false
	}
	if len(a.Samples) != len(b.Samples) {
		above, _, _ := a.median(f)
		below, _, _ := b.median(f)
		return above / below, above > 0 && below > 0
	}
	var parts []float64
	for i, s := range a.Samples {
		if above, below := f(s), f(b.Samples[i]); above > 0 && below > 0 {
			parts = append(parts, above/below)
		}
	}
	return median(parts), len(parts) > 0
}

// percent writes a part with no more digits than matter.
func percent(part float64) string {
	if part < 1 {
		return fmt.Sprintf("%.1f%%", 100*part)
	}
	return fmt.Sprintf("%.0f%%", 100*part)
}
