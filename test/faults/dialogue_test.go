// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/save"
)

// say has a pretender say something before its answer.
func say(s string) func(*net.UnixConn) bool {
	return func(conn *net.UnixConn) bool { io.WriteString(conn, s); return false }
}

// sayLast has it hang up then.
func sayLast(s string) func(*net.UnixConn) bool {
	return func(conn *net.UnixConn) bool { io.WriteString(conn, s); return true }
}

func answer(v string) func(any, error) (any, error) {
	return func(any, error) (any, error) { return json.RawMessage(v), nil }
}

// misbehaviour is a way to misbehave at any step.
type misbehaviour struct {
	name  string
	heals bool // the save has to succeed
	gone  bool // nobody can reach the VM any more
	misdeed
}

var misbehaviours = []misbehaviour{
	{name: "dies before it did it", gone: true, misdeed: misdeed{undone: true, raw: sayLast("")}},
	{name: "dies after it did it", gone: true, misdeed: misdeed{raw: sayLast("")}},
	{name: "dies within its answer", gone: true, misdeed: misdeed{raw: sayLast(`{"return": {"sta`)}},
	{name: "answers late", heals: true, misdeed: misdeed{before: func() { time.Sleep(150 * time.Millisecond) }}},
	{name: "refuses", misdeed: misdeed{undone: true, answer: func(any, error) (any, error) {
		return nil, qmp.Errorf("it does not feel like it")
	}}},
	{name: "does it and says it did not", misdeed: misdeed{answer: func(any, error) (any, error) {
		return nil, qmp.Errorf("it does not feel like it")
	}}},
	{name: "says it did and did not", misdeed: misdeed{undone: true}},
	{name: "answers with a number", misdeed: misdeed{answer: answer(`17`)}},
	{name: "answers with null", misdeed: misdeed{answer: answer(`null`)}},
	{name: "answers with a list", misdeed: misdeed{answer: answer(`[{"status": 5, "id": {}, "type": 7, "fdset-id": "x"}]`)}},
	{name: "answers with text", misdeed: misdeed{answer: answer(`"running"`)}},
	{name: "answers with much text", misdeed: misdeed{answer: answer(`"` + strings.Repeat("Block Name HVA\\r\\n", 1<<16) + `"`)}},
	{name: "answers something else too", misdeed: misdeed{raw: say(`{"return": {"status": "paused"}, "id": 4}` + "\r\n")}},
	{name: "complains of something else", misdeed: misdeed{raw: say(`{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\r\n")}},
	{name: "tells much", heals: true, misdeed: misdeed{raw: say(strings.Repeat(`{"event": "RTC_CHANGE", "data": {"offset": 0}, "timestamp": {"seconds": 1, "microseconds": 2}}`+"\r\n", 2000))}},
	{name: "talks nonsense", misdeed: misdeed{raw: say("(qemu) info status\r\n")}},
}

// TestDialogue has a QEMU misbehave at each step of a save.
func TestDialogue(t *testing.T) {
	p := newPretender(t)
	at := &place{dir: t.TempDir()}
	at.image = filepath.Join(at.dir, "image")
	save := func(ctx context.Context) error {
		_, err := save.Save(ctx, save.Options{Image: at.image, Socket: p.socket})
		return err
	}
	var steps []string
	p.reset(func(_ *pretender, _ int, command string) *misdeed { steps = append(steps, command); return nil })
	do(t, save(t.Context()))
	at.reset(t)
	t.Logf("%d steps: %s", len(steps), strings.Join(steps, " "))
	for _, m := range misbehaviours {
		t.Run(m.name, func(t *testing.T) {
			before := holding(t)
			for k := range steps {
				p.reset(func(_ *pretender, step int, _ string) *misdeed {
					if step != k+1 {
						return nil
					}
					return &m.misdeed
				})
				err := save(t.Context())
				judge(t, fmt.Sprintf("step %d, %s", k+1, steps[k]), err, m, p, at)
			}
			p.reset(nil) // what it was not allowed to give back
			before.nothingMore(t)
		})
	}
	t.Run("hangs for a while", func(t *testing.T) {
		before := holding(t)
		for k := range steps {
			hangAt(t, p, at, save, k+1, steps[k])
		}
		p.reset(nil)
		before.nothingMore(t)
	})
	t.Run("hangs", func(t *testing.T) { hangLong(t, p, at, save) })
}

// judge looks at what became of a save.
func judge(t *testing.T, when string, err error, m misbehaviour, p *pretender, at *place) {
	t.Helper()
	at.files(t)
	isNew := at.what(t)
	switch {
	case err == nil && !isNew:
		t.Errorf("%s: there is no image", when)
	case err != nil && isNew:
		t.Errorf("%s: there is an image, and %v", when, err)
	case err != nil && m.heals:
		t.Errorf("%s: %v", when, err)
	}
	if err != nil {
		oneLine(t, err)
	}
	if !m.gone {
		status, sets := p.now()
		for deadline := time.Now().Add(time.Second); status != "running" && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			status, sets = p.now()
		}
		// Where it only says that it did something there is nothing to be done about it.
		if status != "running" && !(m.undone && m.answer == nil) {
			t.Errorf("%s: the VM is %s (%v)", when, status, err)
		}
		if sets > 0 && !m.undone {
			t.Errorf("%s: it still has a descriptor set (%v)", when, err)
		}
	}
	at.reset(t)
}

// hangAt has it hang at a step until shortly after the save was cancelled.
func hangAt(t *testing.T, p *pretender, at *place, save func(context.Context) error, step int, command string) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	tired := errors.New("tired of it")
	p.reset(func(_ *pretender, n int, _ string) *misdeed {
		if n != step {
			return nil
		}
		return &misdeed{before: func() {
			cancel(tired)
			time.Sleep(100 * time.Millisecond)
		}}
	})
	began := time.Now()
	err := save(ctx)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("step %d, %s: it took %v", step, command, took)
	}
	judge(t, fmt.Sprintf("step %d, %s", step, command), err, misbehaviour{}, p, at)
}

// hangLong has it hang where it hurts, and wake up when nobody waits any more.
func hangLong(t *testing.T, p *pretender, at *place, save func(context.Context) error) {
	before := holding(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wake := make(chan struct{})
	p.reset(func(_ *pretender, _ int, command string) *misdeed {
		if command != "xen-save-devices-state" {
			return nil
		}
		return &misdeed{before: func() { cancel(); <-wake }}
	})
	began := time.Now()
	err := save(ctx)
	t.Logf("gave up after %v: %v", time.Since(began), err)
	if took := time.Since(began); err == nil || took > 40*time.Second {
		t.Errorf("it took %v: %v", took, err)
	}
	close(wake)
	judge(t, "hanging", err, misbehaviour{}, p, at)
	before.nothingMore(t)
}
