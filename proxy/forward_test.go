// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
)

// TestForward: what is not ours goes to QEMU as it is, and its answers come back as they are.
func TestForward(t *testing.T) {
	f := newFake(t)
	f.at("device-x", func(*qmp.Request) (any, error) {
		return nil, &qmp.Error{Class: "DeviceNotActive", Desc: "not \"active\" é"}
	})
	w := newFront(t, f).dial(t, "")
	for _, test := range [][2]string{
		{`{"execute":"echo"}`, empty},
		{`{"execute":"echo","arguments":{"a":[1,-1,18446744073709551615,null,true,{"b":"é\u0007<&>"}]},"id":7}`,
			`{"return": {"a":[1,-1,18446744073709551615,null,true,{"b":"\u00e9\u0007\u003c\u0026\u003e"}]}, "id": 7}`},
		{`{"execute":"echo","id":"x"}`, `{"return": {}, "id": "x"}`},
		{`{"execute":"echo","id":{"a":[null,1.5]}}`, `{"return": {}, "id": {"a": [null, 1.5]}}`},
		{`{"execute":"echo","id":null}`, `{"return": {}, "id": null}`},
		{`{"execute":"device-x","id":1}`, `{"id": 1, "error": {"class": "DeviceNotActive", "desc": "not \"active\" \u00E9"}}`},
		{`{"execute":"nothing","id":2}`, `{"id": 2, "error": {"class": "CommandNotFound", "desc": "The command nothing has not been found"}}`},
		{`{"execute":"echo","nope":1}`, `{"error": {"class": "GenericError", "desc": "QMP input member 'nope' is unexpected"}}`},
	} {
		w.send(test[0])
		got := w.reply()
		if canonical(t, got) != canonical(t, test[1]) {
			t.Errorf("%s\n   says %s\n wanted %s", test[0], got, test[1])
		}
	}
}

// canonical makes two ways to write the same JSON the same.
func canonical(t *testing.T, s string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// TestLongLines: neither a command nor an answer is too long for the proxy that is not for QEMU.
func TestLongLines(t *testing.T) {
	w := newFront(t, newFake(t)).dial(t, "")
	for _, n := range []int{4095, 4096, 65536, 5 << 20} {
		s := `{"a": "` + strings.Repeat("x", n) + `"}`
		sent := make(chan struct{})
		go func() { defer close(sent); w.send(`{"execute":"echo","arguments":` + s + `}` + "\n") }()
		if got := w.reply(); canonical(t, got) != canonical(t, `{"return": `+s+`}`) {
			t.Errorf("%d bytes: %.100s of %d", n, got, len(got))
		}
		<-sent
	}
}

// TestEvents: every client gets every event, in order, and between the answers between which QEMU said it.
func TestEvents(t *testing.T) {
	f := newFake(t)
	f.at("burst", func(*qmp.Request) (any, error) {
		for i := range 1000 {
			f.server.Emit(qmp.Event{Name: "E", Data: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)), Time: time.Unix(5, 6000)})
		}
		return "done", nil
	})
	f.at("echo", func(*qmp.Request) (any, error) {
		return "echo", f.server.Emit(qmp.Event{Name: "BEFORE"})
	})
	fr := newFront(t, f)
	a, b, mute := fr.dial(t, ""), fr.dial(t, `"oob"`), fr.dial(t, "-")
	a.send(`{"execute":"burst"} {"execute":"echo"}`)
	for i := range 1000 {
		want := fmt.Sprintf(`{"timestamp": {"seconds": 5, "microseconds": 6}, "event": "E", "data": {"n": %d}}`, i)
		for _, w := range []*wire{a, b} {
			if got := w.line(); canonical(t, got) != canonical(t, want) {
				t.Fatalf("event %d: %s", i, got)
			}
		}
	}
	for _, want := range []string{`"done"`, `"BEFORE"`, `"echo"`} {
		if got := a.line(); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	// Who has not negotiated hears nothing.
	mute.ask(`{"execute":"echo"}`, `{"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}`)
}

// TestDescriptors: a descriptor reaches QEMU with the command that takes it, and with no other.
func TestDescriptors(t *testing.T) {
	f := newFake(t)
	var named []*os.File
	defer func() { closeFiles(named) }()
	f.at("getfd", func(r *qmp.Request) (any, error) {
		file, err := r.TakeFile()
		if err == nil {
			named = append(named, file)
		}
		return nil, err
	})
	w := newFront(t, f).dial(t, "")
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	other, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	w.send(`{"execute":"add-fd","arguments":{"fdset-id":4,"opaque":"o"}}`, file, other)
	w.reply()
	w.ask(`{"execute":"getfd","arguments":{"fdname":"x"}}`, empty, file)
	f.mu.Lock()
	got := append(named, f.sets[4]...)
	f.mu.Unlock()
	if len(got) != 2 {
		t.Fatalf("QEMU got %d descriptors, want 2", len(got))
	}
	for _, g := range got {
		mine, _ := file.Stat()
		its, _ := g.Stat()
		flags, _ := unix.FcntlInt(g.Fd(), unix.F_GETFL, 0)
		if !os.SameFile(mine, its) || flags&unix.O_APPEND == 0 {
			t.Errorf("QEMU got %s with flags %#o", its.Name(), flags)
		}
	}

	before := openFiles()
	const none = `{"error": {"class": "GenericError", "desc": "No file descriptor supplied via SCM_RIGHTS"}}`
	for _, command := range []string{`{"execute":"echo"}`, `{"execute":"query-status"}`, `{"execute":"nothing"}`, `{"execute":"add-fd","arguments":{"nope":1}}`,
		`{"execute":"migrate"}`, `{"execute":"remove-fd"}`, `{"execute":"getfd"}`, `[]`} {
		w.send(command, other, file)
		w.reply()
		w.ask(`{"execute":"add-fd"}`, none)
	}
	f.mu.Lock()
	stray := len(f.got)
	f.mu.Unlock()
	if now := openFiles(); stray > 0 || now > before {
		t.Errorf("%d descriptors came with commands that take none, %d are open, %d were before", stray, now, before)
	}
}

// TestNegotiation: out-of-band execution is offered if QEMU offers it, and overtakes.
func TestNegotiation(t *testing.T) {
	f := newFake(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	f.at("slow", func(*qmp.Request) (any, error) {
		close(begun)
		<-goOn
		return "slow", nil
	})
	fr := newFront(t, f)
	plain := fr.dial(t, "")
	plain.ask(`{"exec-oob":"echo"}`, `{"error": {"class": "GenericError", "desc": "QMP input member 'exec-oob' is unexpected"}}`)
	w := fr.dial(t, `"oob"`)
	w.ask(`{"execute":"qmp_capabilities"}`, `{"error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete, command ignored"}}`)
	w.send(`{"execute":"slow","id":1} {"execute":"echo","id":2} {"execute":"query-target","id":3}`)
	<-begun
	plain.send(`{"execute":"echo","id":"other"}`) // waits its turn
	w.ask(`{"exec-oob":"echo","id":4}`, `{"return": {}, "id": 4}`)
	w.ask(`{"exec-oob":"migrate","id":5}`, `{"id": 5, "error": {"class": "GenericError", "desc": "The command migrate does not support OOB"}}`)
	if n := f.ran("query-target"); n != 0 {
		t.Errorf("a later command has been run %d times while one was under way", n)
	}
	close(goOn)
	for _, want := range []string{`{"return": "slow", "id": 1}`, `{"return": {}, "id": 2}`, `{"return": {"arch": "x86_64"}, "id": 3}`} {
		if got := w.reply(); canonical(t, got) != canonical(t, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := plain.reply(); got != `{"return": {}, "id": "other"}` {
		t.Errorf("the other client got %s", got)
	}
}

// TestNoOOB: a monitor that offers no out-of-band execution has none in front of it.
func TestNoOOB(t *testing.T) {
	f := newFakeOf(t, &qmp.Server{Greeting: qmp.Greeting{Major: 10}, NoOOB: true})
	w := newFront(t, f).dial(t, "-")
	w.ask(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}`, `{"error": {"class": "GenericError", "desc": "Capability oob not available"}}`)
	w.ask(`{"execute":"qmp_capabilities"}`, empty)
	w.ask(`{"execute":"echo"}`, empty)
}

// TestDeafClient: a client that does not read what it is told keeps nobody else waiting, not for answers nor for
// events.
func TestDeafClient(t *testing.T) {
	f := newFake(t)
	text := strings.Repeat("x", 1<<20)
	f.at("long", func(*qmp.Request) (any, error) { return text, f.server.Emit(qmp.Event{Name: "LONG"}) })
	fr := newFront(t, f)
	deaf, w := fr.dial(t, ""), fr.dial(t, "")
	var wg sync.WaitGroup
	spawn(&wg, func() {
		for range 50 { // its own commands wait at some point, and end with the connection
			if _, err := deaf.conn.Write([]byte(`{"execute":"long"}`)); err != nil {
				return
			}
		}
	})
	for f.ran("long") == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		w.ask(`{"execute":"echo"}`, empty)
	}
	w.ready()
	w.ask(migrateIt, empty)
	w.until(queryMigrate, `"completed"`)
	if n := f.ran("long"); n > 10 {
		t.Errorf("%d commands of a client that does not read were carried out", n)
	}
	deaf.conn.Close()
	wg.Wait()
}
