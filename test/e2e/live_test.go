// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestLive saves a guest that works on its memory all the time, live, and restores it in both modes (each image in both if vm.Long): whatever
// moment the image is of, the guest finds each page as it has to be.
func TestLive(t *testing.T) {
	for number, c := range []struct {
		name string
		vm.Config
	}{
		{"anonymous", vm.Config{Memory: "256M", Fill: 100}},
		{"memfd", vm.Config{Memory: "256M", Fill: 100, Backend: vm.Memfd, Nodes: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := vm.Run(t, c.Config)
			dir := t.TempDir()
			at := func(name string) string { return filepath.Join(dir, name) }
			saveVM(t, v, at("base"))
			do(t, v.Dirty(20))
			do(t, v.Zero(0, 2000))

			live := saveVM(t, v, at("live"), "--live")
			if len(live.Passes) < 2 {
				t.Errorf("passes %v", live.Passes)
			}
			t.Logf("passes: %+v, gave up: %v", live.Passes, live.GaveUp) // which a busy machine may have it do
			diff := saveVM(t, v, at("diff"), "--live", "--base", at("base"))
			t.Logf("passes: %+v", diff.Passes)
			// Slowed down, so that the pause is a small part of it on a busy machine too. Its memory is not looked at: without KVM, QEMU
			// loses a write now and then, the more the longer it takes (docs/guarantees.md), and the slower the guest writes the less.
			byQEMU := saveVM(t, v, at("slow"), "--live", "--engine", "qemu", "--max-bandwidth", "80M")
			if byQEMU.PauseSeconds > byQEMU.SaveSeconds/2 {
				t.Errorf("QEMU's live save paused for %.3f s of %.3f s", byQEMU.PauseSeconds, byQEMU.SaveSeconds)
			}
			do(t, v.Dirty(2))
			saveVM(t, v, at("qemu"), "--live", "--engine", "qemu")
			if whole(t, v); count(t, v) == 0 {
				t.Error("the guest does not count")
			}
			v.Kill()
			for i, image := range []string{"live", "diff", "qemu"} {
				for k, mode := range []string{"instant", "eager"} {
					if (i+k+number)%2 > 0 && !vm.Long() {
						continue // the other guest's image is restored so
					}
					t.Log(image, mode)
					r, _ := restoreVM(t, v, at(image), "--mode", mode)
					do(t, r.Dirty(0))
					whole(t, r)
					r.Kill()
				}
			}
		})
	}
}

// TestLiveGivesUp has a guest dirty more than the target takes: the save ends all the same, soon and right.
func TestLiveGivesUp(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 60, Dirty: 200})
	image := filepath.Join(t.TempDir(), "image")
	r := saveVM(t, v, image, "--live", "--max-bandwidth", "60M")
	t.Logf("passes: %+v", r.Passes)
	if !r.GaveUp || r.DurableSeconds > 20 {
		t.Errorf("gave up: %v, after %.1f s", r.GaveUp, r.DurableSeconds)
	}
	v.Kill()
	w, _ := restoreVM(t, v, image)
	do(t, w.Dirty(0))
	whole(t, w)
}
