// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

// TestRestore has QEMU itself save the guest to a file and load it: what the
// harness says about restored guests must hold without Ramjet, too.
func TestRestore(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	v := Run(t, Config{Memory: "256M", Fill: 32, Seed: 9, CPUs: 2, Tick: 20 * time.Millisecond, Dirty: 20, Watch: 20})
	image := filepath.Join(t.TempDir(), "image")
	count := need[uint64](t)(v.Count())
	ok(t, v.Stop())
	ok(t, v.Execute("migrate", map[string]string{"uri": "file:" + image}, nil))
	for later := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var m struct{ Status string }
		ok(t, v.Execute("query-migrate", nil, &m))
		if m.Status == "completed" {
			break
		}
		if m.Status == "failed" || time.Now().After(later) {
			t.Fatalf("QEMU's migration: %s", m.Status)
		}
	}
	ok(t, v.Kill())

	dir := t.TempDir()
	for range 2 { // the second time the sockets' files are there already
		p, err := spawn(v.Program, append(v.ArgsIn(dir), "-incoming", "file:"+image))
		ok(t, err)
		w := need[*VM](t)(Connect(ctx, SerialIn(dir), QMPIn(dir)))
		for need[string](t)(w.Status()) == "inmigrate" {
			time.Sleep(5 * time.Millisecond)
		}
		ok(t, w.Cont())
		ok(t, w.console.waitAnswer(ctx))
		if n := need[uint64](t)(w.Count()); n < count {
			t.Errorf("the counter is %d, and was %d", n, count)
		}
		right(t, w, 32*256)
		if got := w.Corrupt(); len(got) > 0 {
			t.Errorf("the watch found %q", got)
		}
		w.Close()
		w = need[*VM](t)(Attach(ctx, SerialIn(dir), QMPIn(dir)))
		right(t, w, 32*256)
		if w.PID != p.pid {
			t.Errorf("attached to process %d, started %d", w.PID, p.pid)
		}
		ok(t, w.Kill())
		<-p.done
	}
}
