// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
)

// Why the pages that were read in a pause are of several moments, or not those of the VM that was to be saved.
var (
	errResumed  = errors.New("somebody else let the VM go on while its memory was being written, so it would be of several moments: nothing was saved; save it again")
	errReset    = errors.New("somebody reset the VM while its memory was being written, so it would be of two moments: nothing was saved; save it again")
	errPanicked = errors.New("the guest panicked in the moment in which it was stopped: nothing was saved; it stands still")
	errShutDown = errors.New("the guest shut down in the moment in which it was stopped: nothing was saved")
	errSlept    = errors.New("the guest went to sleep (S3) in the moment in which it was stopped: nothing was saved; save it again")
)

// attribute finds out why the guest is stopped, from its run state after stop.
func (p *Pause) attribute(status string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state != Stopping:
		return cmp.Or(p.spoilt, errPauseEnded)
	case status == "suspended" && p.found == status:
		return errors.New("this QEMU cannot stop a VM that sleeps (S3): it can since 9.0; wake it up for the save")
	case live(status):
		p.spoil(errResumed)
		p.setState(Free)
		return p.spoilt
	case transferring(status):
		p.setState(Foreign)
		p.found = status
		return fmt.Errorf("somebody else saves or migrates this VM just now (%s): wait for it", status)
	case p.panicked:
		p.found = "guest-panicked"
		p.setState(Foreign)
	case p.disowned:
		p.found = "paused"
		p.setState(Foreign)
	case status == "paused", status == "prelaunch": // stopped by us, or by us and then reset
		p.setState(Held)
	case stoppedItself(status):
		p.found = status
		p.setState(Foreign)
	default:
		return fmt.Errorf("cannot stop the VM: QEMU says that it is %q", status)
	}
	return nil
}

// event handles what QEMU tells of the guest. The monitor's reader calls it, so it must not wait for QEMU.
//
// Somebody else's stop of a guest that is stopped already makes no event, and so cannot be noticed.
func (p *Pause) event(e qmp.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case Stopping:
		p.eventStopping(e)
	case Switching:
		if e.Name == "STOP" {
			p.stoppedBy(e)
		}
	case Held, Foreign:
		p.eventStopped(e)
	case Left:
		if e.Name == "RESUME" || e.Name == "RESET" {
			p.setState(Free)
		}
	}
	if e.Name == "STOP" {
		p.stops++
	}
}

// eventStopping handles events between stop and the answer that says why the guest is stopped. Nothing is read yet, so
// nothing is spoilt.
func (p *Pause) eventStopping(e qmp.Event) {
	switch e.Name {
	case "SUSPEND":
		p.found = "suspended"
	case "WAKEUP":
		p.found = "running"
	case "GUEST_PANICKED":
		p.panicked = p.panicked || panicPauses(e)
	}
}

// eventStopped handles events while memory is read.
func (p *Pause) eventStopped(e qmp.Event) {
	switch e.Name {
	case "RESUME":
		p.spoil(errResumed)
		p.setState(Free) // whoever let it go on may stop it again
	case "RESET":
		p.spoil(errReset)
	case "GUEST_PANICKED":
		// The guest panicked while our stop was on its way: QEMU would stop it for that, and finds it stopped
		// (do_vm_stop). The guest is to stay stopped then.
		if panicPauses(e) {
			p.spoil(errPanicked)
			p.setState(Foreign)
		}
	case "SHUTDOWN":
		p.spoil(errShutDown)
		p.setState(Foreign)
	case "SUSPEND":
		p.spoil(errSlept)
	}
}

// panicPauses reports whether QEMU stops the guest for its panic (-action panic=pause, the default with -no-shutdown).
func panicPauses(e qmp.Event) bool {
	var data struct{ Action string }
	return json.Unmarshal(e.Data, &data) != nil || data.Action == "pause"
}

// spoil ends the work in the pause, whose result is worth nothing for the reason why. p.mu is held.
func (p *Pause) spoil(why error) {
	if p.spoilt == nil {
		p.spoilt = why
	}
	if p.cancel != nil {
		p.cancel(p.spoilt)
	}
}

// arm makes the context for the work in the pause. At its end the guest goes on.
func (p *Pause) arm(ctx context.Context) context.Context {
	held, cancel := context.WithCancelCause(ctx)
	disarm := context.AfterFunc(held, func() {
		p.mu.Lock()
		p.spoil(context.Cause(held))
		p.mu.Unlock()
		_ = p.End(ThenResume)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel, p.disarm = cancel, disarm
	if p.state == Stopping {
		p.startLimit()
	}
	return held
}

// startLimit starts the timer for MaxLength. p.mu is held.
func (p *Pause) startLimit() {
	if p.MaxLength <= 0 || p.limit != nil {
		return
	}
	p.limit = time.AfterFunc(time.Until(p.since.Add(p.MaxLength)), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.state.owed() {
			p.spoil(fmt.Errorf("the pause got longer than %v: nothing was saved, the VM goes on", p.MaxLength))
		}
	})
}

// HoldByQEMU is Hold for a migration that QEMU is about to begin. The guest goes on meanwhile, and QEMU stops it at the
// end. Then Switched has to be called, before Check and End.
func (p *Pause) HoldByQEMU(ctx context.Context) (context.Context, error) {
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.enter(ctx, Switching); err != nil {
		return ctx, err
	}
	return p.arm(ctx), nil
}

// Switched is to be called when QEMU has stopped the guest at the end of its migration. found is the run state that the
// guest had before: if somebody else had stopped it by then the pause is not ours.
func (p *Pause) Switched(found string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != Switching {
		return
	}
	p.found = found
	if live(found) {
		p.setState(Held)
	} else {
		p.setState(Foreign)
	}
}

// StopNow stops a guest that runs while QEMU migrates it.
func (p *Pause) StopNow(ctx context.Context) error {
	p.mu.Lock()
	if p.state != Switching {
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	p.op.Lock()
	status, err := p.vm.Status(ctx)
	if err != nil || status != "running" {
		p.op.Unlock()
		return err // it is stopped already: Switched will be told why
	}
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), CleanupTimeout)
	defer cancel()
	answer, err := p.send(sending, "stop", nil)
	if err == nil {
		p.mu.Lock()
		p.state, p.since = Held, time.Now()
		p.startLimit()
		p.mu.Unlock()
	}
	p.op.Unlock()
	if err != nil {
		return err
	}
	return answer(ctx, nil)
}

// Disown says that somebody else wants the guest to be stopped too: End will not let it go on.
func (p *Pause) Disown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case Stopping:
		p.disowned = true
	case Held:
		p.found = "paused"
		p.setState(Foreign)
	}
}

// stoppedBy starts to find out who has stopped a guest that QEMU migrates: QEMU, at the end of the migration, or
// somebody else. It must not wait for the answer. p.mu is held.
func (p *Pause) stoppedBy(e qmp.Event) {
	p.since = time.Now()
	if !e.Time.IsZero() {
		p.since = e.Time
	}
	p.startLimit()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), CleanupTimeout)
		defer cancel()
		status, err := p.vm.Status(ctx)
		if err != nil || live(status) || transferring(status) {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.state == Switching && !p.disowned {
			// If this process dies now the guardian ends the migration, and leaves the guest stopped as its owner wants
			// it.
			p.disowned = true
			_ = p.instruct()
		}
	}()
}
