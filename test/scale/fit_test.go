// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"testing"
)

// TestFit finds the numbers that the samples were made of, whatever their sizes.
func TestFit(t *testing.T) {
	m := &measurement{config: config{speeds: []int{0}}}
	for _, ram := range []float64{0.25, 1, 4, 12} {
		for _, moved := range []float64{0.004, 0.1, 3} {
			m.samples = append(m.samples, sample{what: "diff", ram: ram, moved: moved, seconds: 0.05 + 0.002*ram + 0.4*moved})
		}
		m.samples = append(m.samples, sample{what: "instant", ram: ram, seconds: 0.06})
	}
	all := m.models()
	if len(all) != 2 {
		t.Fatalf("%d models: %v", len(all), all)
	}
	for i, want := range [][]float64{{0.05, 0.002, 0.4}, {0.06, 0}} {
		for j := range want {
			if math.Abs(all[i].k[j]-want[j]) > 1e-9 {
				t.Errorf("%s: %v, want %v", all[i].what, all[i].k, want)
			}
		}
		if all[i].worst > 1e-9 {
			t.Errorf("%s: an error of %g", all[i].what, all[i].worst)
		}
	}
}
