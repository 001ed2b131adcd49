// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"html"
	"strings"
)

// Sizes of the plot, in pixels.
const (
	plotWidth = 860
	barHeight = 18
	barGap    = 8
	labelRoom = 190
	valueRoom = 130
)

// SVG draws the medians as bars, with a line from the smallest to the largest sample: how long each row of a group
// took, the shortest bar being the best.
func (r *Report) SVG() string {
	var b strings.Builder
	y := 56
	for _, group := range []string{"save", "load", "sparse"} {
		y = r.drawGroup(&b, group, y)
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">
<rect width="100%%" height="100%%" fill="white"/>
<text x="12" y="24" font-size="16" font-weight="bold">Seconds to save and to load, medians of %s rounds</text>
<text x="12" y="42" fill="#555">guest of %s, %s in use; QEMU %s, kernel %s, %s processors, %s</text>
`, plotWidth, y+12, r.Config["rounds"], r.Config["memory"], r.Config["fill"], r.Machine["qemu"], r.Machine["kernel"], r.Machine["cpus"], r.Date.Format("2006-01-02"))
	return head + b.String() + "</svg>\n"
}

// drawGroup draws one group's rows from y on and returns where the next begins.
func (r *Report) drawGroup(b *strings.Builder, group string, y int) int {
	longest := 0.0
	for _, row := range r.Rows {
		if row.Group == group && len(row.Samples) > 0 {
			_, _, high := row.median(total)
			longest = max(longest, high)
		}
	}
	if longest == 0 {
		return y
	}
	scale := float64(plotWidth-labelRoom-valueRoom) / longest
	fmt.Fprintf(b, `<text x="12" y="%d" font-weight="bold">%s</text>`+"\n", y+14, group)
	y += 24
	for _, row := range r.Rows {
		if row.Group != group || len(row.Samples) == 0 {
			continue
		}
		mid, low, high := row.median(total)
		middle := float64(y) + barHeight/2
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelRoom-8, y+14, html.EscapeString(row.Name))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`, labelRoom, y, max(mid*scale, 1), barHeight, color(row.Name), html.EscapeString(row.What))
		fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#222"/>`, labelRoom+low*scale, labelRoom+high*scale, middle, middle)
		fmt.Fprintf(b, `<text x="%.1f" y="%d">%s</text>`+"\n", labelRoom+high*scale+6, y+14, label(row, mid))
		y += barHeight + barGap
	}
	return y + 10
}

func label(row *Row, mid float64) string {
	if rate, _, _ := row.median(Sample.Rate); rate > 0 && !strings.Contains(row.Name, "instant") {
		return fmt.Sprintf("%.2f s, %.0f MB/s", mid, rate/1e6)
	}
	return fmt.Sprintf("%.3f s", mid)
}

func color(name string) string {
	for prefix, c := range map[string]string{"ramjet": "#2a7de1", "qemu": "#e08a2a", "libvirt": "#b5577a", "disk": "#9aa5b1"} {
		if strings.HasPrefix(name, prefix) {
			return c
		}
	}
	return "#777"
}
