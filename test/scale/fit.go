// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strings"
)

// fit finds the k with the least squares of the relative errors of y = k[0]*x[0] + k[1]*x[1] + ... over all rows: what is
// small counts as much as what is large. It solves the normal equations.
func fit(x [][]float64, y []float64) []float64 {
	n := len(x[0])
	a := make([][]float64, n)
	for i := range a {
		a[i] = make([]float64, n+1)
		for r, row := range x {
			w := 1 / (y[r] * y[r])
			for j := range n {
				a[i][j] += w * row[i] * row[j]
			}
			a[i][n] += w * row[i] * y[r]
		}
	}
	for i := range n { // Gauss and Jordan, with pivots
		p := i
		for r := i + 1; r < n; r++ {
			if math.Abs(a[r][i]) > math.Abs(a[p][i]) {
				p = r
			}
		}
		a[i], a[p] = a[p], a[i]
		for r := range n {
			if r == i || a[i][i] == 0 {
				continue
			}
			f := a[r][i] / a[i][i]
			for j := i; j <= n; j++ {
				a[r][j] -= f * a[i][j]
			}
		}
	}
	k := make([]float64, n)
	for i := range k {
		if a[i][i] != 0 {
			k[i] = a[i][n] / a[i][i]
		}
	}
	return k
}

// model is seconds = fixed + perGiB * RAM + perGB * moved, for one thing at one speed.
type model struct {
	what  string
	speed int
	k     []float64
	worst float64 // largest relative error
	n     int
}

// models fits one for each thing and speed.
func (m *measurement) models() (all []model) {
	for _, what := range []string{"save", "diff", "eager", "instant"} {
		for _, speed := range m.speeds {
			fitted := model{what: what, speed: speed}
			var x [][]float64
			var y []float64
			for _, s := range m.samples {
				if s.what == what && s.speed == speed && s.channels == 0 {
					x, y = append(x, s.terms()), append(y, s.seconds)
				}
			}
			if len(y) <= 2 {
				continue
			}
			fitted.k, fitted.n = fit(x, y), len(y)
			for i := range x {
				sum := 0.0
				for j, v := range x[i] {
					sum += fitted.k[j] * v
				}
				fitted.worst = max(fitted.worst, math.Abs(sum-y[i])/y[i])
			}
			all = append(all, fitted)
		}
	}
	return all
}

// terms are what the seconds of a sample are a sum of. In a full save and load moved and RAM go together, so they have no
// term of their own for RAM, and the instant restore none for moved bytes.
func (s sample) terms() []float64 {
	switch s.what {
	case "instant":
		return []float64{1, s.ram}
	case "diff":
		return []float64{1, s.ram, s.moved}
	}
	return []float64{1, s.moved}
}

func (f model) String() string {
	names := map[string][]string{"instant": {"", " x GiB of RAM"}, "diff": {"", " x GiB of RAM", " x GB written"}}[f.what]
	if names == nil {
		names = []string{"", " x GB stored"}
	}
	var parts []string
	for i, k := range f.k {
		parts = append(parts, fmt.Sprintf("%.4f%s", k, names[i]))
	}
	return strings.Join(parts, " + ")
}
