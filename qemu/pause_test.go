// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var errCancelled = errors.New("cancelled")

// The matrix: whose pause it is, what happens, what is to become of the VM, how it is saved, and when it happens.
type cell struct {
	ours   bool // the VM runs, and the save stops it; otherwise somebody else has stopped it before
	action string
	then   Then
	live   bool
	when   string // passes, pause, pages written
}

func (c cell) String() string {
	whose, how := "theirs", "stopped"
	if c.ours {
		whose = "ours"
	}
	if c.live {
		how = "live"
	}
	return strings.Join([]string{whose, c.action, string(c.then), how, c.when}, ", ")
}

// others are what somebody else, or the guest, may do.
var others = map[string]func(*machine){
	"nothing": func(*machine) {}, "stop": (*machine).stop, "cont": func(m *machine) { _ = m.cont() }, "reset": (*machine).reset,
	"cont and stop": func(m *machine) { _ = m.cont(); m.stop() }, "panic": (*machine).panic, "shutdown": (*machine).shutdown, "suspend": (*machine).suspend,
}

// published says whether a save of the cell has to come to an image.
func (c cell) published() bool {
	pauseOver := c.when == "pages written" && c.then == ThenResume
	switch c.action {
	case "nothing", "stop":
		return true
	case "cancel", "SIGKILL":
		return false
	case "SIGSTOP":
		return !c.ours || c.when == "passes" || pauseOver
	}
	return c.when == "passes" || pauseOver
}

// want is what has become of the VM in the end; shadow is one that nobody saved and to which the same has happened.
func (c cell) want(shadow *machine) string {
	if c.published() {
		switch c.then {
		case ThenQuit:
			return "ended"
		case ThenStay:
			return "stands"
		}
	}
	if c.action == "stop" && c.ours && c.when == "pause" {
		return "lives" // QEMU tells nobody of a stop of a VM that stands, see Pause.event
	}
	return shadow.now()
}

// TestPauseMatrix does everything to everybody: each cell of the matrix. What must hold in each: an image is of one
// moment, and says what the VM was in it; when all is over the VM does what it would do had nobody saved it, or what
// --then says.
func TestPauseMatrix(t *testing.T) {
	var wg sync.WaitGroup
	few := make(chan struct{}, 4) // at a time, of those that do not wait
	for _, ours := range []bool{true, false} {
		for _, action := range []string{"nothing", "stop", "cont", "cont and stop", "reset", "panic", "shutdown", "suspend", "cancel", "SIGKILL", "SIGSTOP"} {
			for _, then := range []Then{ThenResume, ThenStay, ThenQuit} {
				for _, live := range []bool{false, true} {
					for _, when := range []string{"passes", "pause", "pages written"} {
						c := cell{ours, action, then, live, when}
						if when == "passes" && !live || !ours && action == "suspend" {
							continue // there is no such moment; a VM that stands does not go to sleep
						}
						wg.Add(1)
						go func() {
							defer wg.Done()
							if action != "SIGSTOP" {
								few <- struct{}{}
								defer func() { <-few }()
							}
							c.run(t)
						}()
					}
				}
			}
		}
	}
	wg.Wait()
}

// saver is a save in which something happens.
type saver struct {
	cell
	t       *testing.T
	m       *machine
	shadow  *machine
	p       *Pause
	cancel  context.CancelCauseFunc
	killed  bool
	written int // the moment that pages are of
}

func (c cell) run(t *testing.T) {
	status := "running"
	if !c.ours {
		status = "paused"
	}
	m, vm := newMachine(t, status)
	s := &saver{cell: c, t: t, m: m, shadow: &machine{status: status}, p: NewPause(vm)}
	if err := s.p.Guard(); err != nil {
		t.Error(c, err)
		return
	}
	guardian := s.p.guardian
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	s.cancel = cancel
	err := s.save(ctx)
	if !s.killed {
		if err != nil {
			_ = s.p.End(ThenResume)
		}
		_ = s.p.Close()
	}
	select {
	case <-guardian.Ended():
	case <-time.After(15 * time.Second):
		t.Errorf("%v: the guardian does not end", c)
	}
	if published := err == nil; published != c.published() {
		t.Errorf("%v: published %v (%v)", c, published, err)
	}
	if want, got := c.want(s.shadow), m.now(); got != want {
		t.Errorf("%v: the VM %s (%s), want %s; %v, pause %v, commands %v", c, got, m.status, want, err, s.p.State(), m.commands())
	}
}

// save is as package snapshot does it.
func (s *saver) save(ctx context.Context) error {
	if s.live {
		s.happens("passes")
	}
	held, err := s.p.Hold(ctx)
	if err != nil {
		return err
	}
	state := s.p.ImageState()
	s.m.do(func(m *machine) {
		s.written = m.moment
		want := m.status
		if len(m.log) > 0 {
			want = m.found
		}
		if state != want {
			s.t.Errorf("%v: the image says %s, it was %s", s.cell, state, want)
		}
	})
	s.happens("pause")
	if s.killed {
		return errCancelled
	}
	if err := s.p.Check(held); err != nil {
		return err
	}
	s.m.do(func(m *machine) {
		if m.moment != s.written {
			s.t.Errorf("%v: the image is torn", s.cell)
		}
	})
	if s.then == ThenResume {
		if err := s.p.End(ThenResume); err != nil {
			return err
		}
	}
	s.happens("pages written")
	if s.killed {
		return errCancelled
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if s.then != ThenResume {
		if err := s.p.Check(ctx); err != nil {
			return err
		}
	}
	return s.p.End(s.then)
}

// happens does what is to happen now, if it is.
func (s *saver) happens(when string) {
	if s.when != when {
		return
	}
	if do := others[s.action]; do != nil {
		s.m.do(do)
		s.shadow.do(do)
		return
	}
	switch s.action {
	case "cancel":
		s.cancel(errCancelled)
	case "SIGKILL":
		s.killed = true
		s.p.vm.QMP.Close()
		s.p.guardian.Close()
	case "SIGSTOP":
		s.p.mute(true)
		for begin := time.Now(); s.m.now() == "stands" && time.Since(begin) < 2*GuardianPatience; {
			time.Sleep(10 * time.Millisecond)
		}
		s.p.mute(false)
		time.Sleep(4 * heartbeatInterval)
	}
}

// mute keeps the heartbeat from being sent, as when the process does not run.
func (p *Pause) mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = on
}

// TestPauseCancelMeetsStop: a cancel comes while stop is on its way to the monitor, which takes a while. Cont must not
// overtake it.
func TestPauseCancelMeetsStop(t *testing.T) {
	for _, delay := range []string{"before it is sent", "after it is sent"} {
		m, vm := newMachine(t, "running")
		p := NewPause(vm)
		if err := p.Guard(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		p.send = func(ctx context.Context, cmd string, args any) (func(context.Context, any) error, error) {
			time.AfterFunc(10*time.Millisecond, func() { cancel(errCancelled) })
			if delay == "before it is sent" {
				time.Sleep(50 * time.Millisecond)
			}
			answer, err := vm.QMP.Send(ctx, cmd, args)
			if delay == "after it is sent" {
				time.Sleep(50 * time.Millisecond)
			}
			return answer, err
		}
		_, err := p.Hold(ctx)
		if err == nil {
			t.Errorf("%s: the pause begins although it was cancelled", delay)
		}
		if err := errors.Join(p.End(ThenResume), p.Close()); err != nil {
			t.Error(err)
		}
		if got := m.commands(); m.now() != "lives" || !slices.Equal(got, []string{"stop", "cont"}) {
			t.Errorf("%s: the VM %s after %v", delay, m.now(), got)
		}
	}
}

// TestPauseMaxLength: a pause that gets too long ends while its work hangs, and says so; one of somebody else's does
// not.
func TestPauseMaxLength(t *testing.T) {
	for _, status := range []string{"running", "paused"} {
		m, vm := newMachine(t, status)
		p := NewPause(vm)
		p.MaxLength = 50 * time.Millisecond
		if err := p.Guard(); err != nil {
			t.Fatal(err)
		}
		held, err := p.Hold(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-held.Done():
		case <-time.After(500 * time.Millisecond):
		}
		time.Sleep(50 * time.Millisecond)
		err = p.Check(t.Context())
		if status == "running" && (err == nil || !strings.Contains(err.Error(), "longer than 50ms") || m.now() != "lives") {
			t.Errorf("a pause of ours: %v, the VM %s", err, m.now())
		}
		if status == "paused" && (err != nil || m.now() != "stands") {
			t.Errorf("a pause of somebody else's: %v, the VM %s", err, m.now())
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPauseStoppedBefore: what stood for any reason is not let go on, and its image says what it was.
func TestPauseStoppedBefore(t *testing.T) {
	for _, status := range []string{"paused", "io-error", "guest-panicked", "shutdown", "watchdog", "postmigrate", "prelaunch"} {
		for _, during := range []bool{false, true} { // between the look and stop, or before
			if during && status == "postmigrate" {
				continue
			}
			m, vm := newMachine(t, map[bool]string{false: status, true: "running"}[during])
			p := NewPause(vm)
			if err := p.Guard(); err != nil {
				t.Fatal(err)
			}
			if during {
				p.send = func(ctx context.Context, cmd string, args any) (func(context.Context, any) error, error) {
					m.do(func(m *machine) {
						if status == "prelaunch" {
							m.reset()
						} else {
							m.halt(status)
						}
					})
					return vm.QMP.Send(ctx, cmd, args)
				}
			}
			_, err := p.Hold(t.Context())
			state := p.ImageState()
			if err := errors.Join(err, p.Check(t.Context()), p.End(ThenResume), p.Close()); err != nil {
				t.Errorf("%s: %v", status, err)
			}
			want := map[string]string{"postmigrate": "paused"}[status]
			if want == "" {
				want = status
			}
			if during && (status == "paused" || status == "prelaunch") {
				continue // nobody can tell that from our own stop
			}
			if state != want || m.now() != "stands" {
				t.Errorf("%s, during %v: the image says %s, the VM is %s", status, during, state, m.status)
			}
		}
	}
}

// TestPauseLock: two pauses of one VM exclude each other.
func TestPauseLock(t *testing.T) {
	_, vm := newMachine(t, "running")
	a, b := NewPause(vm), NewPause(vm)
	defer a.Close()
	defer b.Close()
	if err := a.Claim(); err != nil {
		t.Fatal(err)
	}
	if err := b.Claim(); err == nil || !strings.Contains(err.Error(), "another ramjet") {
		t.Errorf("the second claim: %v", err)
	}
	a.Unclaim()
	if err := b.Claim(); err != nil {
		t.Error(err)
	}
}

// TestPauseByQEMU: QEMU stops the guest itself at the end of its migration. Who stopped it before is not ours to let go
// on.
func TestPauseByQEMU(t *testing.T) {
	for _, c := range []struct {
		found     string
		completed bool
		want      string
	}{{"running", true, "lives"}, {"paused", true, "stands"}, {"running", false, "lives"}, {"paused", false, "stands"}} {
		m, vm := newMachine(t, "running")
		p := NewPause(vm)
		if err := p.Guard(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.HoldByQEMU(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.do(func(m *machine) {
			if c.found == "paused" {
				m.stop() // by somebody else
			}
			if c.completed {
				m.halt("finish-migrate")
				m.status = "postmigrate"
			}
		})
		if c.completed {
			p.Switched(c.found)
			if err := p.Check(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(p.End(ThenResume), p.Close()); err != nil {
			t.Error(err)
		}
		if got := m.now(); got != c.want {
			t.Errorf("%+v: the VM %s", c, got)
		}
		if p.Length() < 0 || c.completed && p.Length() == 0 {
			t.Errorf("%+v: a pause of %v", c, p.Length())
		}
	}
}
