// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ramjet-vm/ramjet/transfer"
)

// tables are what was measured and what fits it, in Markdown.
func (m *measurement) tables() string {
	var b strings.Builder
	b.WriteString("| what | RAM GiB | channels | device MB/s | moved GB | seconds | MB/s | pause s | CPU s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, s := range m.samples {
		fmt.Fprintf(&b, "| %s | %g | %s | %s | %.3f | %.3f | %s | %s | %.2f |\n", s.what, s.ram, or(s.channels, strconv.Itoa(transfer.DefaultChannels)), or(s.speed, "as it is"),
			s.moved, s.seconds, rate(s), figure(s.pause), s.cpu)
	}
	b.WriteString("\n| what | device MB/s | seconds = | largest error | samples |\n|---|--:|---|--:|--:|\n")
	for _, f := range m.models() {
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f%% | %d |\n", f.what, or(f.speed, "as it is"), f, 100*f.worst, f.n)
	}
	return b.String()
}

func or(n int, otherwise string) string {
	if n == 0 {
		return otherwise
	}
	return fmt.Sprint(n)
}

func rate(s sample) string {
	if s.moved == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", 1000*s.moved/s.seconds)
}

func figure(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", v)
}
