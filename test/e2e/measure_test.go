// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// measuring skips what takes an idle machine and gigabytes, unless RAMJET_MEASURE=1 asks for it.
func measuring(t *testing.T) string {
	t.Helper()
	if os.Getenv("RAMJET_MEASURE") != "1" {
		t.Skip("a measurement: RAMJET_MEASURE=1 runs it")
	}
	if dir := os.Getenv("RAMJET_MEASURE_DIR"); dir != "" {
		return dir
	}
	return t.TempDir()
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// TestMeasureDiff saves guests of several sizes, restores them instantly, has each dirty the same amount, and saves
// that in full and as a diff, in turn.
func TestMeasureDiff(t *testing.T) {
	dir := measuring(t)
	const dirty = 26 << 20 / 4096 // 1% of 2.5 GiB
	var cost []float64
	for _, gib := range []int{1, 4} {
		fill := min(2560, gib*1024*5/8)
		v := vm.Run(t, vm.Config{Memory: fmt.Sprint(gib, "G"), Fill: fill})
		at := func(name string) string { return filepath.Join(dir, fmt.Sprint(name, gib)) }
		save(t, v, at("base"))
		v.Kill()
		r, _ := restore(t, v, at("base"))
		var diffs, fulls, ratios, bytes []float64
		for i := range 3 {
			if err := r.Touch(dirty, 11); err != nil {
				t.Fatal(err)
			}
			full := save(t, r, at("full"), "--force")
			os.Remove(at("full"))
			diff := save(t, r, at("diff"), "--force", "--base", at("base"))
			if i == 0 {
				t.Logf("%d GiB: the first diff has %d pages", gib, diff.PagesStored)
			}
			diffs, fulls = append(diffs, diff.DurableSeconds), append(fulls, full.DurableSeconds)
			ratios = append(ratios, diff.DurableSeconds/full.DurableSeconds)
			bytes = append(bytes, float64(diff.BytesStored)/float64(full.BytesStored))
			if i == 0 {
				cost = append(cost, diff.DurableSeconds)
			}
		}
		t.Logf("%d GiB: full %.3f s, diff %.3f s, %.1f%% of the time, first diff %.1f%% of the bytes", gib, median(fulls), median(diffs), 100*median(ratios), 100*bytes[0])
		r.Kill()
		os.Remove(at("base"))
		os.Remove(at("diff"))
	}
	t.Logf("cost of the first diff by RAM size: %.3f (largest by smallest %.2f)", cost, slices.Max(cost)/slices.Min(cost))
}
