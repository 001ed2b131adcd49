// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// slow is a save that takes a second or two.
func slow(v *vm.VM, socket, image string) []string {
	return []string{"save", "--qmp", socket, "--max-bandwidth", "60M", image}
}

// TestTwoSaves saves one VM twice at a time, over two monitors.
func TestTwoSaves(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 16, Dirty: 20})
	dir := t.TempDir()
	own := filepath.Join(v.Dir, "own.sock")
	var first outcome
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { defer wg.Done(); first = ramjet(t, slow(v, v.QMP, filepath.Join(dir, "first"))...) }()
	waitPaused(t, v)
	refused(t, 1, []string{"another ramjet is saving this VM"}, slow(v, own, filepath.Join(dir, "second"))...)
	wg.Wait()
	if first.status != 0 {
		t.Errorf("the first save: status %d, says %q", first.status, first.err)
	}

	// Somebody who is no ramjet lets the guest go on in the middle.
	var second outcome
	wg.Add(1)
	go func() { defer wg.Done(); second = ramjet(t, slow(v, v.QMP, filepath.Join(dir, "second"))...) }()
	waitPaused(t, v)
	do(t, v.Cont())
	wg.Wait()
	if second.status != 1 || !strings.Contains(second.err, "somebody else let the VM go on") {
		t.Errorf("with the guest running in between: status %d, says %q", second.status, second.err)
	}
	if _, err := os.Stat(filepath.Join(dir, "second")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("there is an image of several moments")
	}
	do(t, v.Dirty(0))
	whole(t, v)
	r, _ := restoreVM(t, v, filepath.Join(dir, "first"))
	do(t, r.Dirty(0))
	whole(t, r)
}

// waitPaused waits until somebody has stopped the VM.
func waitPaused(t *testing.T, v *vm.VM) {
	t.Helper()
	for range 500 {
		if s, err := v.Status(); err == nil && s == "paused" {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("nobody stops the VM")
}

// TestSaveDuringRestore saves a VM that is being restored, at many moments.
func TestSaveDuringRestore(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "128M", Fill: 16})
	dir := directory(t)
	image := filepath.Join(dir, "image")
	before := whole(t, v)
	saveVM(t, v, image)
	v.Kill()
	good := 0
	for i := range 6 {
		saved := filepath.Join(dir, fmt.Sprint("saved", i))
		home := t.TempDir()
		done := make(chan outcome)
		go func() {
			args := append([]string{"restore", "--detach", "--mode", "eager", image, "--", v.Program}, v.ArgsIn(home)...)
			done <- ramjet(t, args...)
		}()
		var o outcome
		for range 1000 {
			if o = ramjet(t, "save", "--qmp", vm.QMPIn(home), saved); !strings.Contains(o.err, "no such file") && !strings.Contains(o.err, "nobody") && !strings.Contains(o.err, "not there") {
				break
			}
			time.Sleep(time.Duration(1+i) * time.Millisecond)
		}
		if r := <-done; r.status != 0 {
			t.Fatalf("the restore: status %d, says %q", r.status, r.err)
		}
		r := vm.RunAttached(t, vm.SerialIn(home), vm.QMPIn(home))
		if got := whole(t, r); got.Sum != before.Sum {
			t.Errorf("memory is %v, was %v", got, before)
		}
		r.Kill()
		if o.status != 0 {
			t.Logf("refused: %s", o.err)
			if strings.Count(o.err, "\n") != 1 {
				t.Errorf("says %q, want one line", o.err)
			}
			continue
		}
		good++
		w, _ := restoreVM(t, v, saved)
		if got := whole(t, w); got.Sum != before.Sum {
			t.Errorf("saved during the restore: memory is %v, was %v", got, before)
		}
		w.Kill()
	}
	t.Logf("%d of 6 saves came through", good)
}

// TestDiffOverBalloon takes memory away from the guest between base and diff.
func TestDiffOverBalloon(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "256M", Fill: 32, Balloon: true})
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	saveVM(t, v, at("base"))
	inflate(t, v, 160)
	before := whole(t, v)
	saveVM(t, v, at("diff"), "--base", at("base"))
	v.Kill()
	r, _ := restoreVM(t, v, at("diff"))
	if got := whole(t, r); got.Sum != before.Sum {
		t.Errorf("memory is %v, was %v", got, before)
	}
	// QEMU cannot give memory back that is mapped from an image, and must not lose any over it.
	inflate(t, r, 200)
	inflate(t, r, 120)
	do(t, r.Touch(1000, 1))
	before = whole(t, r)
	saveVM(t, r, at("again"), "--base", at("diff"))
	r.Kill()
	for _, mode := range []string{"instant", "eager"} {
		w, _ := restoreVM(t, v, at("again"), "--mode", mode)
		inflate(t, w, 256)
		if got := whole(t, w); got.Sum != before.Sum {
			t.Errorf("%s: memory is %v, was %v", mode, got, before)
		}
		do(t, w.Fill(80))
		whole(t, w)
		w.Kill()
	}
}

// inflate sets the guest's memory to so many MiB and waits until it is so.
func inflate(t *testing.T, v *vm.VM, mib int64) {
	t.Helper()
	do(t, v.Execute("balloon", map[string]int64{"value": mib << 20}, nil))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		var b struct{ Actual int64 }
		do(t, v.Execute("query-balloon", nil, &b))
		if b.Actual == mib<<20 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Log("the guest has not done all that the balloon asked for")
}

// TestDiffOverHotPlug plugs memory in between base and diff.
func TestDiffOverHotPlug(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "256M", Fill: 16, ExtraArgs: []string{"-m", "256M,slots=2,maxmem=1G"}})
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	saveVM(t, v, at("base"))
	do(t, v.Execute("object-add", map[string]any{"qom-type": "memory-backend-ram", "id": "mem1", "size": 128 << 20}, nil))
	do(t, v.Execute("device_add", map[string]any{"driver": "pc-dimm", "id": "dimm1", "memdev": "mem1"}, nil))
	time.Sleep(300 * time.Millisecond) // the guest takes it into use, or not
	do(t, v.Fill(60))
	before := whole(t, v)
	diff := saveVM(t, v, at("diff"), "--base", at("base"))
	if diff.PagesTotal*4096 < 384<<20 {
		t.Errorf("the diff is of %d pages", diff.PagesTotal)
	}
	v.Kill()

	refused(t, 1, []string{"mem1", "-object memory-backend-ram,id=mem1,size=128M -device pc-dimm,memdev=mem1"}, append([]string{"restore", "--detach", at("diff"), "--", v.Program}, v.ArgsIn(t.TempDir())...)...)
	plugged := *v
	plugged.Args = append(append([]string{}, v.Args...), "-object", "memory-backend-ram,id=mem1,size=128M", "-device", "pc-dimm,id=dimm1,memdev=mem1")
	for _, mode := range []string{"instant", "eager"} {
		r, _ := restoreVM(t, &plugged, at("diff"), "--mode", mode)
		if got := whole(t, r); got.Sum != before.Sum {
			t.Errorf("%s: memory is %v, was %v", mode, got, before)
		}
		do(t, r.Touch(2000, 3))
		changed := whole(t, r)
		saveVM(t, r, at("again-"+mode), "--base", at("base"))
		r.Kill()
		r, _ = restoreVM(t, &plugged, at("again-"+mode))
		if got := whole(t, r); got.Sum != changed.Sum {
			t.Errorf("%s: memory is %v, was %v", mode, got, changed)
		}
		r.Kill()
	}
}
