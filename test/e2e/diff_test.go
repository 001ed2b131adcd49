// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/export"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// work has the guest change some of its memory in all ways there are.
func work(t *testing.T, v *vm.VM) {
	t.Helper()
	for _, err := range []error{v.Fill(70), v.Touch(500, 7), v.Zero(1000, 300), v.Free(2000, 300)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiff saves diffs of VMs of both kinds, those mapped from the base and others, and restores each in both
// modes.
func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name string
		vm.Config
	}{
		{"pc anonymous", vm.Config{Memory: "256M", Fill: 64}},
		{"q35 two nodes of memfd", vm.Config{Memory: "256M", Fill: 64, Machine: "q35", Backend: vm.Memfd, Nodes: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := vm.Run(t, c.Config)
			dir := t.TempDir()
			base, bySum := filepath.Join(dir, "base"), filepath.Join(dir, "by-sum")
			whole(t, v)
			full := saveVM(t, v, base)
			work(t, v)
			before := whole(t, v)
			small(t, saveVM(t, v, bySum, "--base", base), full)
			v.Kill()

			s := byStock(t, v, bySum)
			if got := whole(t, s); got.Sum != before.Sum {
				t.Errorf("by QEMU alone: memory is %v, was %v", got, before)
			}
			s.Kill()
			for _, mode := range []string{"instant", "eager"} {
				r, _ := restoreVM(t, v, bySum, "--mode", mode)
				if got := whole(t, r); got.Sum != before.Sum {
					t.Errorf("%s: memory is %v, was %v", mode, got, before)
				}
				// A diff of a VM that came from a diff is one of the same base.
				again := filepath.Join(dir, "again-"+mode)
				work(t, r)
				changed := whole(t, r)
				diff := saveVM(t, r, again, "--base", bySum)
				if small(t, diff, full); *diff.Base != base {
					t.Errorf("the diff of a diff builds on %s", *diff.Base)
				}
				r.Kill()
				must[image.VerifyResult](t, "verify", again)
				r2, _ := restoreVM(t, v, again)
				if got := whole(t, r2); got.Sum != changed.Sum {
					t.Errorf("%s: memory is %v, was %v", mode, got, changed)
				}
				r2.Kill()
			}
		})
	}
}

// TestDiffChain takes a guest through several lives, each of them a diff of the same base, with random work in each; the
// guest's own table is the oracle.
func TestDiffChain(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 24, Nodes: 2, Backend: vm.MemfdPrivate, Seed: 4})
	dir := directory(t)
	base := filepath.Join(dir, "base")
	saveVM(t, v, base)
	life := v
	for n := range 5 {
		for range 6 {
			first := r.IntN(5000)
			switch r.IntN(4) {
			case 0:
				do(t, life.Touch(1+r.IntN(400), 1+r.IntN(12)))
			case 1:
				do(t, life.Zero(first, r.IntN(600)))
			case 2:
				do(t, life.Free(first, r.IntN(600)))
			case 3:
				do(t, life.Fill(22+r.IntN(8)))
			}
		}
		before := whole(t, life)
		diff := filepath.Join(dir, fmt.Sprint("diff", n))
		flags := []string{"--base", base}
		if r.IntN(2) == 0 {
			flags = append(flags, "--live")
		}
		saveVM(t, life, diff, flags...)
		life.Kill()
		life, _ = restoreVM(t, v, diff, "--mode", []string{"instant", "eager"}[r.IntN(2)])
		if got := whole(t, life); got.Sum != before.Sum {
			t.Fatalf("life %d: memory is %v, was %v", n, got, before)
		}
	}
}

// TestDiffOnQEMUsImage builds diffs on an image that QEMU wrote while the guest ran, which has pages in their places
// that do not count: what was there before they became zero.
func TestDiffOnQEMUsImage(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 40, Dirty: 30})
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	zeroing := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 40 && err == nil; i++ {
			err = v.Zero(i*250, 200)
		}
		zeroing <- err
	}()
	saveVM(t, v, at("base"), "--engine", "qemu", "--live", "--max-bandwidth", "60M")
	do(t, <-zeroing)
	do(t, v.Dirty(0))
	before := whole(t, v)
	saveVM(t, v, at("by-sum"), "--base", at("base"))
	v.Kill()
	r, _ := restoreVM(t, v, at("by-sum"))
	if got := whole(t, r); got.Sum != before.Sum {
		t.Errorf("by sum: memory is %v, was %v", got, before)
	}
	r.Kill()
	r, _ = restoreVM(t, v, at("base"))
	do(t, r.Dirty(0))
	do(t, r.Touch(700, 5))
	do(t, r.Zero(3000, 400))
	before = whole(t, r)
	saveVM(t, r, at("mapped"), "--base", at("base"))
	r.Kill()
	for _, mode := range []string{"instant", "eager"} {
		r, _ := restoreVM(t, v, at("mapped"), "--mode", mode)
		if got := whole(t, r); got.Sum != before.Sum {
			t.Errorf("mapped, %s: memory is %v, was %v", mode, got, before)
		}
		r.Kill()
	}
	must[export.Result](t, "export", "--format", "flat", at("mapped"), at("flat"))
	r, _ = restoreVM(t, v, at("flat"))
	if got := whole(t, r); got.Sum != before.Sum {
		t.Errorf("flat: memory is %v, was %v", got, before)
	}
}

// byStock runs what --print-command says, which for a diff is QEMU and nothing else.
func byStock(t *testing.T, v *vm.VM, diff string) *vm.VM {
	t.Helper()
	dir := t.TempDir()
	words := append([]string{"restore", "--print-command", "--json", diff, "--", v.Program}, v.ArgsIn(dir)...)
	o := ramjet(t, words...)
	var printed struct{ Command []string }
	if err := json.Unmarshal([]byte(o.out), &printed); err != nil || o.status != 0 {
		t.Fatalf("status %d, says %q, %q", o.status, o.out, o.err)
	}
	c := exec.Command(printed.Command[0], printed.Command[1:]...)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return vm.RunAttached(t, vm.SerialIn(dir), vm.QMPIn(dir))
}

// small checks that a diff is one.
func small(t *testing.T, diff, full *save.Result) {
	t.Helper()
	t.Logf("diff: %d pages and %d zero ones of %d, pause %.3f s", diff.PagesStored, diff.PagesZero, full.PagesStored, diff.PauseSeconds)
	if diff.PagesStored < 500 || diff.PagesStored > full.PagesStored/3 || diff.PagesZero < 300 {
		t.Errorf("the diff has %d pages and %d zero ones, its base %d", diff.PagesStored, diff.PagesZero, full.PagesStored)
	}
	if diff.Base == nil {
		t.Error("the diff does not say what it builds on")
	}
}

// TestDiffRefusals has the base be wrong in all ways there are.
func TestDiffRefusals(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 8})
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	saveVM(t, v, at("base"))
	saveVM(t, v, at("other"))
	saveVM(t, v, at("diff"), "--base", at("base"))
	qemu := append([]string{"--", v.Program}, v.ArgsIn(t.TempDir())...)
	restore := func(args ...string) []string {
		return append(append([]string{"restore", "--detach"}, args...), qemu...)
	}

	refused(t, 1, []string{"is the base itself"}, "save", "--qmp", v.QMP, "--base", at("base"), "--force", at("base"))
	refused(t, 1, []string{"there is no image", at("none")}, "save", "--qmp", v.QMP, "--base", at("none"), at("x"))
	refused(t, 1, []string{"--engine=qemu"}, "save", "--qmp", v.QMP, "--engine", "qemu", "--base", at("base"), at("x"))
	refused(t, 1, []string{"whole", "--base"}, restore("--base", at("other"), at("base"))...)
	refused(t, 1, []string{at("other"), "is another", "--base"}, restore("--base", at("other"), at("diff"))...)
	refused(t, 1, []string{"is not at", at("none"), "--base"}, restore("--base", at("none"), at("diff"))...)

	// Moved together they find each other; moved apart, --base helps.
	for _, d := range []string{"moved", "apart"} {
		if err := os.Mkdir(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(at(from), at(to)); err != nil {
			t.Fatal(err)
		}
	}
	printed := func(args ...string) string {
		t.Helper()
		o := ramjet(t, append([]string{"restore", "--print-command"}, args...)...)
		if o.status != 0 {
			t.Fatalf("status %d, says %q", o.status, o.err)
		}
		return o.out
	}
	rename("base", "moved/base")
	rename("diff", "moved/diff")
	if s := printed(at("moved/diff")); !strings.Contains(s, at("moved/base")) {
		t.Errorf("the command does not name the base:\n%s", s)
	}
	rename("moved/base", "apart/base")
	refused(t, 1, []string{"is not at", "--base"}, restore(at("moved/diff"))...)
	printed("--base", at("apart/base"), at("moved/diff"))

	// Overwritten by another image, and changed in a single byte.
	rename("other", "base")
	refused(t, 1, []string{at("base"), "replaced or changed"}, restore(at("moved/diff"))...)
	damage := func(offset int64) {
		t.Helper()
		f, err := os.OpenFile(at("apart/base"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var b [1]byte
		f.ReadAt(b[:], offset)
		b[0] ^= 1
		f.WriteAt(b[:], offset)
	}
	damage(9) // in the header
	refused(t, 3, []string{at("apart/base")}, restore("--base", at("apart/base"), at("moved/diff"))...)
	damage(9)
	type inspected struct {
		Blocks []struct {
			PagesOffset int64 `json:"pages_offset"`
		}
	}
	page := must[inspected](t, "inspect", at("apart/base")).Blocks[0].PagesOffset + 1<<20
	damage(page)
	for _, how := range []string{"--mode=eager", "--verify"} {
		refused(t, 3, []string{at("apart/base")}, restore("--base", at("apart/base"), how, at("moved/diff"))...)
	}
}
