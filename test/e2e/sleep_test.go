// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestSleepingGuest is about a guest in S3: saved while it sleeps, and when it was stopped after that, it comes back asleep and
// wakes up as the one that it was. QEMU's own engine, which would lose it, is refused before anything is done to it.
func TestSleepingGuest(t *testing.T) {
	v := boot(t, vm.Config{Backend: vm.Memfd, Memory: "256M"})
	before := look(t, v, false)
	do(t, v.Sleep())

	asleep, r := saveOf(t, v)
	if r.Engine != save.EngineRamjet {
		t.Errorf("saved by %s", r.Engine)
	}
	is(t, v, "suspended")
	live, _ := saveOf(t, v, "--live")
	is(t, v, "suspended")
	refused(t, 1, []string{"sleeps (S3)", "--engine=ramjet"}, "save", "--qmp", v.QMP, "--engine=qemu", directory(t)+"/image")
	is(t, v, "suspended")

	do(t, v.Stop())
	stopped, _ := saveOf(t, v)
	is(t, v, "paused")
	refused(t, 1, []string{"postmigrate", "--engine=ramjet"}, "save", "--qmp", v.QMP, "--engine=qemu", directory(t)+"/image")
	refused(t, 1, []string{"sleeps (S3)", "--engine=ramjet"}, "save", "--qmp", v.QMP, "--engine=qemu", "--then=quit", directory(t)+"/image")
	is(t, v, "paused")
	do(t, v.Cont())
	is(t, v, "suspended")
	wake(t, v)
	after := look(t, v, false)
	if o := ramjet(t, "inspect", asleep); !strings.Contains(o.out, "was suspended") {
		t.Errorf("inspect says %s", o.out)
	}
	if o := ramjet(t, "inspect", stopped); !strings.Contains(o.out, "was paused, its guest sleeps (S3)") {
		t.Errorf("inspect says %s", o.out)
	}

	for _, c := range []struct{ image, mode, status string }{
		{asleep, "instant", "suspended"}, {live, "eager", "suspended"}, {stopped, "instant", "paused"},
	} {
		dir, r := bring(t, v, false, c.image, "--mode", c.mode)
		g := sleeping(t, dir)
		if r.Status != c.status {
			t.Errorf("the restored VM is said to be %q", r.Status)
		}
		is(t, g, c.status)
		if c.status == "paused" {
			do(t, g.Cont())
			is(t, g, "suspended")
		}
		wake(t, g)
		sameGuest(t, g, before, after, false)
		g.Kill()
	}
	g := load(t, v, asleep, ways{})
	is(t, g, "suspended")
	wake(t, g)
	sameGuest(t, g, before, after, false)

	t.Run("falls asleep during QEMU's own save", func(t *testing.T) { fallsAsleep(t, v) })
}

// fallsAsleep has a guest go to sleep during the passes of a live save by QEMU: it is found out before QEMU completes the file,
// after which the VM could not go on.
func fallsAsleep(t *testing.T, v *vm.VM) {
	image := directory(t) + "/image"
	c := exec.Command(program, "save", "--qmp", v.QMP, "--engine=qemu", "--live", "--max-bandwidth=20M", image)
	var stderr strings.Builder
	c.Stderr = &stderr
	do(t, c.Start())
	for {
		var m struct{ Status string }
		do(t, v.Execute("query-migrate", nil, &m))
		if m.Status == "active" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	do(t, v.Sleep())
	if err := c.Wait(); err == nil || c.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "went to sleep (S3)") {
		t.Errorf("the save ends with %v, says %q", err, &stderr)
	}
	nothingLeft(t, image[:len(image)-len("/image")])
	is(t, v, "suspended")
	wake(t, v)
	whole(t, v)
}

// is checks a VM's run state, which it may take a moment to come to.
func is(t *testing.T, v *vm.VM, want string) {
	t.Helper()
	var s string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if s = status(t, v); s == want {
			return
		}
	}
	t.Fatalf("the VM is %s, want %s", s, want)
}

// wake wakes a sleeping guest up and waits until it answers.
func wake(t *testing.T, v *vm.VM) {
	t.Helper()
	do(t, v.Execute("system_wakeup", nil, nil))
	is(t, v, "running")
	for deadline := time.Now().Add(30 * time.Second); ; {
		// The serial port that has just come back loses characters.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := v.CommandContext(ctx, "ping")
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
