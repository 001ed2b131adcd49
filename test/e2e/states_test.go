// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestStates is about what a VM does when it has been saved, and when it has been restored.
func TestStates(t *testing.T) {
	v := boot(t, vm.Config{Backend: vm.Memfd, Memory: "256M"})
	before := look(t, v, false)
	image, _ := saveOf(t, v)
	after := look(t, v, false)

	t.Run("print command", func(t *testing.T) { printed(t, v, image) })
	t.Run("restored paused", func(t *testing.T) {
		for _, mode := range []string{"instant", "eager"} {
			dir, _ := bring(t, v, false, image, "--paused", "--mode", mode)
			g := sleeping(t, dir)
			wokenUp(t, g, before, after)
		}
	})
	t.Run("a socket of its own", func(t *testing.T) {
		dir := directory(t)
		_, r := bring(t, v, false, image, "--paused", "--qmp", dir+"/own.sock")
		var s struct{ Status string }
		execute(t, dir+"/own.sock", "query-status", nil, &s)
		if r.QMP != dir+"/own.sock" || s.Status != "paused" {
			t.Errorf("the monitor is at %s, the VM is %s", r.QMP, s.Status)
		}
	})
	t.Run("found by its pid", func(t *testing.T) {
		image := directory(t) + "/image"
		must[save.Result](t, "save", "--pid", fmt.Sprint(v.PID), image)
		sameGuest(t, revive(t, v, false, image), before, look(t, v, false), false)
	})
	for _, engine := range []string{"ramjet", "qemu"} {
		t.Run("stay by "+engine, func(t *testing.T) {
			before := look(t, v, false)
			image, r := saveOf(t, v, "--then=stay", "--engine="+engine)
			if s := status(t, v); s != "paused" && s != "postmigrate" {
				t.Errorf("the VM is %s", s)
			}
			do(t, v.Cont())
			after := look(t, v, false)
			if after.count-before.count > 300 {
				t.Errorf("it counted from %d to %d", before.count, after.count)
			}
			if r.PauseSeconds != 0 && r.PauseSeconds > r.DurableSeconds {
				t.Errorf("a pause of %v s in a save of %v s", r.PauseSeconds, r.DurableSeconds)
			}
			sameGuest(t, revive(t, v, false, image), before, after, false)
		})
	}
	t.Run("paused before", func(t *testing.T) { pausedBefore(t, v) })
	t.Run("quit", func(t *testing.T) {
		before := look(t, v, false)
		image, _ := saveOf(t, v, "--then=quit")
		select {
		case <-v.Exited():
		case <-time.After(10 * time.Second):
			t.Fatal("QEMU is still there")
		}
		g := revive(t, v, true, image)
		sameGuest(t, g, before, before, false)
	})
}

// wokenUp checks that a guest stands still, lets it go on, and checks that it is the one that was saved.
func wokenUp(t *testing.T, g *vm.VM, before, after moment) {
	t.Helper()
	if s := status(t, g); s != "paused" {
		t.Fatalf("the VM is %s", s)
	}
	do(t, g.Cont())
	sameGuest(t, g, before, after, false)
	g.Kill()
}

// pausedBefore saves a VM that is paused: it stays so, and comes back so, with Ramjet and with stock QEMU. QEMU's own engine
// would leave it in postmigrate and is refused.
func pausedBefore(t *testing.T, v *vm.VM) {
	before := look(t, v, false)
	do(t, v.Stop())
	image, r := saveOf(t, v)
	if r.PauseSeconds != 0 {
		t.Errorf("a pause of %v s for a VM that was paused", r.PauseSeconds)
	}
	refused(t, 1, []string{"paused", "postmigrate", "--engine=ramjet"}, "save", "--qmp", v.QMP, "--engine=qemu", directory(t)+"/image")
	if s := status(t, v); s != "paused" {
		t.Errorf("after the save the VM is %s", s)
	}
	do(t, v.Cont())
	_, _ = saveOf(t, v, "--engine=qemu", "--then=stay")
	refused(t, 1, []string{"already", "--engine=ramjet"}, "save", "--qmp", v.QMP, "--engine=qemu", directory(t)+"/image")
	again, _ := saveOf(t, v) // after QEMU saved it
	do(t, v.Cont())
	after := look(t, v, false)
	for _, mode := range []string{"instant", "eager"} {
		dir, _ := bring(t, v, false, image, "--mode", mode)
		wokenUp(t, sleeping(t, dir), before, after)
	}
	wokenUp(t, load(t, v, image, ways{}), before, after)
	wokenUp(t, load(t, v, again, ways{multifd: true}), before, after)
	dir, _ := bring(t, v, false, again)
	wokenUp(t, sleeping(t, dir), before, after)
}

// printed checks what --print-command says, with and without arguments of the user's.
func printed(t *testing.T, v *vm.VM, image string) {
	type command struct{ Command []string }
	for _, args := range [][]string{{}, append([]string{"--", v.Program}, v.Args...)} {
		c := must[command](t, append([]string{"restore", "--print-command", "--json", image}, args...)...).Command
		joined := strings.Join(c, " ")
		for _, want := range []string{"-incoming defer", " -S", "memory-backend-file,id=ram0,", "share=off,readonly=on,rom=off", "path=" + v.Serial} {
			if !strings.Contains(joined, want) {
				t.Errorf("%q does not say %q", joined, want)
			}
		}
		if !strings.HasSuffix(c[0], "/"+v.Program) || !slices.Contains(c, "256M") {
			t.Errorf("%q is not the command", c)
		}
	}
	text := ramjet(t, "restore", "--print-command", image)
	if text.status != 0 || !strings.Contains(text.out, "'console=ttyS0 quiet") || strings.Count(text.out, "\n") != 1 {
		t.Errorf("printed %q, status %d", text.out, text.status)
	}
}

// TestHotplug saves a VM that got memory while it ran: its command line does not tell, and the error says so.
func TestHotplug(t *testing.T) {
	v := boot(t, vm.Config{Machine: "q35", Memory: "256M", ExtraArgs: []string{"-m", "256M,slots=2,maxmem=2G"}})
	do(t, v.Execute("object-add", map[string]any{"qom-type": "memory-backend-ram", "id": "more", "size": 128 << 20}, nil))
	do(t, v.Execute("device_add", map[string]any{"driver": "pc-dimm", "id": "plugged", "memdev": "more"}, nil))
	before := look(t, v, false)
	image, _ := saveOf(t, v)
	after := look(t, v, false)
	do(t, v.Kill())
	refused(t, 1, []string{"the device plugged (pc-dimm) was plugged in while the VM ran"}, "restore", "--detach", image)
	refused(t, 1, []string{"the device plugged (pc-dimm) was plugged in while the VM ran"}, "restore", "--detach", "--mode=eager", image)
	v.Args = append(v.Args, "-object", `{"qom-type":"memory-backend-ram","id":"more","size":134217728}`, "-device", "pc-dimm,id=plugged,memdev=more")
	for _, mode := range []string{"instant", "eager"} {
		g := revive(t, v, false, image, "--mode", mode)
		sameGuest(t, g, before, after, false)
		g.Kill()
	}
}
