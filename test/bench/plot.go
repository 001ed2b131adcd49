// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"strings"
)

// Sizes of the plot, in pixels.
const (
	plotWidth = 900
	barHeight = 16
	barStep   = 22
	labelRoom = 200
	valueRoom = 150
)

// SVG draws each group's medians as bars, with a line from the smallest to the largest sample. What is drawn are seconds: the shortest bar
// is the best.
func (r *Report) SVG() string {
	var b strings.Builder
	y := 92
	for _, g := range r.groups() {
		y = g.draw(&b, y)
	}
	return r.head(y+8) + b.String() + "</svg>\n"
}

func (r *Report) head(height int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
<text x="12" y="24" font-size="16" font-weight="bold">Seconds to save and to restore a virtual machine: shorter is better</text>
<text x="12" y="43" fill="#555">guest of %s, %s in use, where no other size is given; medians of %s rounds, the line is from the best to the worst</text>
<text x="12" y="60" fill="#555">QEMU %s, kernel %s, %s processors, %s</text>
`, plotWidth, height, plotWidth, height, r.Config["memory"], r.Config["fill"], r.Config["rounds"], r.Machine["qemu"], r.Machine["kernel"], r.Machine["cpus"], r.Date.Format("2006-01-02"))
	x := 12
	for _, m := range makers {
		fmt.Fprintf(&b, `<rect x="%d" y="68" width="11" height="11" fill="%s"/><text x="%d" y="78">%s</text>`, x, m.color, x+16, m.name)
		x += 90
	}
	return b.String() + "\n"
}

// draw draws the rows of a group from y on and returns where the next begins.
func (g *group) draw(b *strings.Builder, y int) int {
	longest := 0.0
	for _, row := range g.rows {
		_, _, high := row.median(g.by)
		longest = max(longest, high)
	}
	if longest == 0 {
		return y
	}
	scale := float64(plotWidth-labelRoom-valueRoom) / longest
	fmt.Fprintf(b, `<text x="12" y="%d" font-weight="bold">%s</text>`+"\n", y+20, html.EscapeString(g.title))
	y += 28
	fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%d" y2="%d" stroke="#999"/>`+"\n", labelRoom, labelRoom, y-2, y+barStep*len(g.rows)-4)
	for _, row := range g.rows {
		mid, low, high := row.median(g.by)
		middle := float64(y) + barHeight/2
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelRoom-8, y+12, html.EscapeString(row.Name))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`, labelRoom, y, max(mid*scale, 1), barHeight, color(row.Name), html.EscapeString(row.What))
		if high > low {
			fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#222"/>`, labelRoom+low*scale, labelRoom+high*scale, middle, middle)
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d">%s</text>`+"\n", labelRoom+high*scale+6, y+12, g.label(row, mid))
		y += barStep
	}
	return y + 6
}

// label says how long, and how fast, or in rows that are not the reference what the table calls relative.
func (g *group) label(row *Row, mid float64) string {
	text := fmt.Sprintf("%.3f s", mid)
	if mid >= 1 {
		text = fmt.Sprintf("%.2f s", mid)
	}
	if rate, _, _ := row.median(Sample.Rate); g.ofDisk() && rate > 0 {
		return text + fmt.Sprintf(", %.0f MB/s", rate/1e6)
	}
	if part, ok := g.relative(row); ok && row != g.reference() {
		return text + ", " + percent(part)
	}
	return text
}

// makers are whose work a row measures, which its name begins with.
var makers = []struct{ name, color string }{
	{"ramjet", "#2a7de1"}, {"qemu", "#e08a2a"}, {"libvirt", "#b5577a"}, {"disk", "#9aa5b1"},
}

func color(name string) string {
	for _, m := range makers {
		if strings.HasPrefix(name, m.name) {
			return m.color
		}
	}
	return "#777"
}
