// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/snapshot"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// measuring skips what takes an idle machine and gigabytes, unless RAMJET_MEASURE=1 asks for it. Images go to
// RAMJET_MEASURE_DIR, if that is set.
func measuring(t *testing.T) (at func(name string) string) {
	t.Helper()
	if os.Getenv("RAMJET_MEASURE") != "1" {
		t.Skip("a measurement: RAMJET_MEASURE=1 runs it")
	}
	dir := t.TempDir()
	if d := os.Getenv("RAMJET_MEASURE_DIR"); d != "" {
		var err error
		if dir, err = os.MkdirTemp(d, "measure-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	return func(name string) string { return filepath.Join(dir, name) }
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// TestMeasureDiff restores guests of several sizes instantly, has each dirty the same amount, 1% of 4 GiB, and saves that in full
// and as a diff, in turn: dirt of neighbouring pages, and of every 11th page.
func TestMeasureDiff(t *testing.T) {
	at := measuring(t)
	const dirty = 4 << 30 / 100 / 4096
	for _, stride := range []int{1, 11} {
		var cost []float64
		for _, gib := range []int{1, 4, 8} {
			v := vm.Run(t, vm.Config{Memory: fmt.Sprint(gib, "G"), Fill: min(2560, gib*1024*5/8)})
			save(t, v, at("base"), "--force")
			v.Kill()
			r, _ := restore(t, v, at("base"), "--prefetch", "off") // which would read from the same disk
			do(t, r.Touch(dirty, stride))
			time.Sleep(2 * time.Second)
			var diffs, handed, pauses, fulls, times, bytes []float64
			for range 5 {
				full := save(t, r, at("full"))
				diff := save(t, r, at("diff"), "--base", at("base"))
				os.Remove(at("full"))
				os.Remove(at("diff"))
				diffs, fulls = append(diffs, diff.DurableSeconds), append(fulls, full.DurableSeconds)
				handed, pauses = append(handed, diff.SaveSeconds/full.SaveSeconds), append(pauses, diff.PauseSeconds/full.PauseSeconds)
				times = append(times, diff.DurableSeconds/full.DurableSeconds)
				bytes = append(bytes, float64(diff.BytesStored)/float64(full.BytesStored))
			}
			t.Logf("RESULT %d GiB, every %d. page: full %.3f s, diff %.3f s; durable %.1f%%, handed to the kernel %.1f%%, pause %.1f%% of the time, %.1f%% of the bytes",
				gib, stride, median(fulls), median(diffs), 100*median(times), 100*median(handed), 100*median(pauses), 100*median(bytes))
			cost = append(cost, median(diffs))
			r.Kill()
		}
		t.Logf("RESULT every %d. page: the diff's cost by RAM size %.3f s, largest by smallest %.2f", stride, cost, slices.Max(cost)/slices.Min(cost))
	}
}

// TestMeasureClone starts ten clones of a 4 GiB guest with 2.5 GiB stored. The guest has no khugepaged, because that is not
// idle: it copies some 1.6 MiB a second into huge pages, which are a clone's own then.
func TestMeasureClone(t *testing.T) {
	at := measuring(t)
	v := vm.Run(t, vm.Config{Memory: "4G", Fill: 2560, Append: "transparent_hugepage=never"})
	save(t, v, at("image"))
	v.Kill()
	var took []float64
	for round := range 5 {
		o, r, _ := clones(t, v, 10, at("image"))
		if o.status != 0 {
			t.Fatal(o.err)
		}
		took = append(took, r.Seconds)
		if round == 4 {
			time.Sleep(30 * time.Second)
			var each []float64
			for _, c := range r.VMs {
				each = append(each, alone(t, c.PID))
			}
			t.Logf("RESULT memory that is a clone's own after 30 s: %.1f MiB (median of Pss; all: %.1f)", median(each), each)
		}
		for _, c := range r.VMs {
			(&vm.VM{PID: c.PID}).Kill()
		}
	}
	t.Logf("RESULT 10 clones run after %.3f s (median of %.3f)", median(took), took)
}

// alone is the memory that a process has for itself, its share of what it shares included, in MiB; without the image's pages.
func alone(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	var pss float64
	for _, line := range strings.Split(string(b), "\n") {
		var kib float64
		if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kib); n == 1 {
			pss = kib
		}
	}
	return pss / 1024
}

// TestMeasureLive compares the pauses of saves with and without --live on a guest that dirties 10 MiB/s, onto a target
// limited to 300 MB/s.
func TestMeasureLive(t *testing.T) {
	at := measuring(t)
	for _, c := range []vm.Config{{Memory: "4G", Fill: 2560, Dirty: 10}, {Memory: "4G", Fill: 2560, Dirty: 10, Backend: vm.Memfd}} {
		v := vm.Run(t, c)
		var plain, live []float64
		var last *snapshot.SaveResult
		for range 3 {
			plain = append(plain, save(t, v, at("plain"), "--force", "--max-bandwidth", "300M").PauseSeconds)
			last = save(t, v, at("live"), "--force", "--live", "--max-bandwidth", "300M")
			live = append(live, last.PauseSeconds)
		}
		t.Logf("passes: %+v", last.Passes)
		t.Logf("RESULT %s: pause %.3f s, with --live %.3f s: %.1f%%", c.Backend, median(plain), median(live), 100*median(live)/median(plain))
		v.Kill()
		r, _ := restore(t, v, at("live"))
		do(t, r.Dirty(0))
		whole(t, r)
		r.Kill()
	}
}
