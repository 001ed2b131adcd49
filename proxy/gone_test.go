// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
)

// checkImage checks that a file begins, or does not begin, with a stream.
func checkImage(t *testing.T, f *os.File, complete bool) {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil || complete != strings.HasPrefix(string(b), "QEVM") || !complete && len(b) > 0 {
		t.Errorf("the file has %d bytes, %v; complete: %v", len(b), err, complete)
	}
}

// TestClientLeaves: a migration goes on without the client that began it, and the next client finds it.
func TestClientLeaves(t *testing.T) {
	f := newFake(t)
	fr := newFront(t, f)
	w := fr.dial(t, "")
	file := w.ready("pause-before-switchover")
	w.send(migrateIt)
	w.conn.Close() // before the answer, and whatever of it was read

	w = fr.dial(t, "")
	w.until(queryMigrate, `"pre-switchover"`)
	w.ask(`{"execute":"query-status"}`, `{"return": {"status": "finish-migrate", "running": false}}`)
	w.ask(`{"execute":"cont"}`, `{"error": {"class": "GenericError", "desc": "Migration is not finalized yet"}}`)
	w.ask(migrateIt, `{"error": {"class": "GenericError", "desc": "There's a migration process in progress"}}`)
	w.ask(`{"execute":"migrate-set-capabilities","arguments":{"capabilities":[]}}`, `{"error": {"class": "GenericError", "desc": "There's a migration process in progress"}}`)
	w.ask(`{"execute":"migrate-continue","arguments":{"state":"pre-switchover"}}`, empty)
	w.until(queryMigrate, `"completed"`)
	w.ask(`{"execute":"query-status"}`, `{"return": {"status": "postmigrate", "running": false}}`)
	checkImage(t, file, true)
	if n := f.ran("migrate"); n != 0 {
		t.Errorf("QEMU was told to migrate %d times", n)
	}
}

// TestQEMULeaves: QEMU ends at some step of a migration. The migration fails, by the name of what happened, the file
// holds nothing that could be taken for an image, and every later command gets an error at once.
func TestQEMULeaves(t *testing.T) {
	for _, at := range []string{"human-monitor-command", "query-target", "query-status", "stop", "xen-save-devices-state", "nothing", "query-fdsets"} {
		t.Run(at, func(t *testing.T) {
			f := newFake(t)
			fr := newFront(t, f)
			w := fr.dial(t, "")
			file := w.ready("pause-before-switchover")
			die := func(*qmp.Request) (any, error) { f.die(); return nil, nil }
			if at == "xen-save-devices-state" || at == "nothing" {
				w.ask(migrateIt, empty)
				w.until(queryMigrate, `"pre-switchover"`)
				f.at(at, die)
				if at == "nothing" {
					f.die()
				} else {
					w.ask(`{"execute":"migrate-continue","arguments":{"state":"pre-switchover"}}`, empty)
				}
			} else {
				f.at(at, die)
				w.send(migrateIt)
				if s := w.reply(); s != empty && !strings.Contains(s, "monitor connection closed") {
					t.Errorf("migrate says %s", s)
				}
			}
			select {
			case <-fr.Gone():
			case <-time.After(10 * time.Second):
				t.Fatal("nobody has noticed")
			}
			if at == "nothing" {
				// What waits for the client has nobody to ask; the client's next word is what ends it.
				w.ask(`{"execute":"migrate-continue","arguments":{"state":"pre-switchover"}}`, empty)
			}
			if fr.lastIsOurs() {
				fr.out.Wait()
				if s := w.until(queryMigrate, `"failed"`); !strings.Contains(s, "monitor connection closed") || strings.Contains(s, `\n`) {
					t.Errorf("query-migrate says %s", s)
				}
			}
			began := time.Now()
			for _, command := range []string{`{"execute":"query-status","id":1}`, `{"execute":"echo","id":1}`, `{"execute":"query-fdsets","id":1}`, `{"execute":"migrate","arguments":{"uri":"file:x"},"id":1}`} {
				w.send(command)
				if s := w.reply(); !strings.Contains(s, `"id": 1`) || !strings.Contains(s, "monitor connection closed") {
					t.Errorf("%s says %s", command, s)
				}
			}
			fr.Close()
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("the end took %v", d)
			}
			checkImage(t, file, false)
		})
	}
}

// TestRefused: a migration that cannot begin leaves nothing of what was taken out of QEMU for it.
func TestRefused(t *testing.T) {
	f := newFake(t)
	w := newFront(t, f).dial(t, "")
	file := w.ready("multifd")
	w.ask(`{"execute":"migrate-set-parameters","arguments":{"direct-io":true}}`, empty)
	before := openFiles()
	for command, do := range map[string]func(*qmp.Request) (any, error){
		"human-monitor-command": func(*qmp.Request) (any, error) { return "nothing that can be read", nil },
		"query-target":          func(*qmp.Request) (any, error) { return nil, qmp.Errorf("no target") },
		"query-fdsets": func(*qmp.Request) (any, error) {
			return []qmp.FDSet{{ID: 1, FDs: []qmp.FDIn{{FD: int64(file.Fd())}, {FD: 99999}}}}, nil
		},
		"": nil, // the set does not fit
	} {
		f.at(command, do)
		w.send(migrateIt)
		if s := w.reply(); !strings.Contains(s, `"error"`) || strings.Contains(s, `\n`) {
			t.Errorf("%s: migrate says %s", command, s)
		}
		f.at(command, nil)
		if n := openFiles(); n != before {
			t.Errorf("%s: %d descriptors, %d before", command, n, before)
		}
		w.ask(`{"execute":"query-status"}`, `{"return": {"running": true, "status": "running"}}`)
	}
	w.ask(`{"execute":"migrate-set-parameters","arguments":{"direct-io":false}}`, empty)
	w.ask(migrateIt, empty)
	w.until(queryMigrate, `"completed"`)
	checkImage(t, file, true)
}

// TestBlocked: what QEMU would not migrate it is asked to migrate, so that it says why.
func TestBlocked(t *testing.T) {
	f := newFake(t)
	w := newFront(t, f).dial(t, "")
	file := w.ready()
	f.at("query-migrate", func(*qmp.Request) (any, error) { return map[string]any{"blocked-reasons": []string{"a device"}}, nil })
	f.at("migrate", func(*qmp.Request) (any, error) { return nil, qmp.Errorf("a device") })
	w.ask(migrateIt, `{"error": {"class": "GenericError", "desc": "a device"}}`)
	checkImage(t, file, false)
}

// TestSettings: capabilities and parameters are QEMU's, whoever sets them, and say who does a migration.
func TestSettings(t *testing.T) {
	f := newFake(t)
	w := newFront(t, f).dial(t, "")
	file := w.ready()
	w.ask(`{"execute":"migrate-set-parameters","arguments":{"multifd-channels":3,"max-bandwidth":5}}`, empty)
	f.mu.Lock()
	if on, n := f.caps["mapped-ram"], f.params["multifd-channels"]; !on || n != 3.0 {
		t.Errorf("QEMU has mapped-ram %v, %v channels", on, n)
	}
	f.mu.Unlock()
	w.ask(`{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":0}}`, empty)
	w.ask(migrateIt, empty)
	w.until(queryMigrate, `"completed"`)
	checkImage(t, file, true)
	w.ask(`{"execute":"cont"}`, empty)

	f.mu.Lock()
	f.caps["mapped-ram"] = false // by another monitor
	f.mu.Unlock()
	w.ask(migrateIt, empty)
	w.ask(queryMigrate, empty)
	if n := f.ran("migrate"); n != 1 {
		t.Errorf("QEMU was told to migrate %d times, not once", n)
	}
	w.ask(`{"execute":"migrate_cancel"}`, `{"error": {"class": "CommandNotFound", "desc": "The command migrate_cancel has not been found"}}`)
}

// TestStopMeanwhile: a guest that a client stops while it stands still for a migration stays so when that is cancelled.
func TestStopMeanwhile(t *testing.T) {
	for _, stop := range []bool{false, true} {
		f := newFake(t)
		w := newFront(t, f).dial(t, "")
		file := w.ready("pause-before-switchover")
		w.ask(migrateIt, empty)
		w.until(queryMigrate, `"pre-switchover"`)
		want := "running"
		if stop {
			w.ask(`{"execute":"stop"}`, empty)
			want = "paused"
		}
		w.ask(`{"execute":"migrate_cancel"}`, empty)
		w.until(queryMigrate, `"cancelled"`)
		if s := f.now(); s != want {
			t.Errorf("the guest is %s, not %s", s, want)
		}
		checkImage(t, file, false)
	}
}

// TestStoppedThenKilled: nor does the guardian let such a guest go on.
func TestStoppedThenKilled(t *testing.T) {
	for _, stop := range []bool{false, true} {
		f := newFake(t)
		fr := newFront(t, f)
		w := fr.dial(t, "")
		w.ready("pause-before-switchover")
		w.ask(migrateIt, empty)
		w.until(queryMigrate, `"pre-switchover"`)
		want := "running"
		if stop {
			w.ask(`{"execute":"stop"}`, empty)
			want = "paused"
		}
		fr.vm.Close() // as the end of the process would
		fr.pause.Close()
		if s := f.now(); s != want {
			t.Errorf("the guest is %s, not %s", s, want)
		}
	}
}

// TestGuardianDies: a migration that has got as far as to write its image completes without a guardian. The next one is
// refused, and the guest goes on.
func TestGuardianDies(t *testing.T) {
	f := newFake(t)
	w := newFront(t, f).dial(t, "")
	file := w.ready("pause-before-switchover")
	w.ask(migrateIt, empty)
	w.until(queryMigrate, `"pre-switchover"`)
	pid := guardian(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for unix.Kill(pid, 0) == nil { // a process that is killed has its pipe open until it gets its turn
		time.Sleep(time.Millisecond)
	}
	w.ask(`{"execute":"migrate-continue","arguments":{"state":"pre-switchover"}}`, empty)
	w.until(queryMigrate, `"completed"`)
	checkImage(t, file, true)
	w.ask(`{"execute":"query-status"}`, `{"return": {"status": "postmigrate", "running": false}}`)
	w.ask(`{"execute":"cont"}`, empty)
	w.ask(migrateIt, empty)
	if s := w.until(queryMigrate, `"failed"`); !strings.Contains(s, "start ramjet serve anew") {
		t.Errorf("the next one ends as %s", s)
	}
	if s := f.now(); s != "running" {
		t.Errorf("the guest is %s", s)
	}
}
