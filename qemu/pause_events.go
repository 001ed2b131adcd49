// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
)

// Why the pages of a pause are of several moments, or not those of the VM that was to be saved.
var (
	errResumed  = errors.New("somebody else let the VM go on while its memory was being written, so it would be of several moments: nothing was saved; save it again")
	errReset    = errors.New("somebody reset the VM while its memory was being written, so it would be of two moments: nothing was saved; save it again")
	errPanicked = errors.New("the guest panicked in the moment in which it was stopped: nothing was saved; it stands still")
	errShutDown = errors.New("the guest shut down in the moment in which it was stopped: nothing was saved")
	errSlept    = errors.New("the guest went to sleep (S3) in the moment in which it was stopped: nothing was saved; save it again")
)

// event looks at what QEMU tells of the guest. The monitor's reader calls it: it must not wait for QEMU.
//
// A stop by somebody else while the guest stands already makes no event, and nobody can know of it.
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
		p.eventStanding(e)
	case Left:
		if e.Name == "RESUME" || e.Name == "RESET" {
			p.become0(Free)
		}
	}
	if e.Name == "STOP" {
		p.stops++
	}
}

// eventStopping is event between stop and the look at what became of it: nothing is read yet, so nothing is spoilt.
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

// eventStanding is event while memory is read.
func (p *Pause) eventStanding(e qmp.Event) {
	switch e.Name {
	case "RESUME":
		p.spoil(errResumed)
		p.become0(Free) // whoever let it go on may stop it again
	case "RESET":
		p.spoil(errReset)
	case "GUEST_PANICKED":
		// QEMU has yet to stop a guest that panicked while our stop was on its way, and finds it stopped (do_vm_stop). It is
		// not to go on then.
		if panicPauses(e) {
			p.spoil(errPanicked)
			p.become0(Foreign)
		}
	case "SHUTDOWN":
		p.spoil(errShutDown)
		p.become0(Foreign)
	case "SUSPEND":
		p.spoil(errSlept)
	}
}

// panicPauses says that QEMU stops the guest for its panic (-action panic=pause, the default with -no-shutdown).
func panicPauses(e qmp.Event) bool {
	var data struct{ Action string }
	return json.Unmarshal(e.Data, &data) != nil || data.Action == "pause"
}

// spoil has the work of the pause end, and come to nothing. p.mu is held.
func (p *Pause) spoil(why error) {
	if p.spoilt == nil {
		p.spoilt = why
	}
	if p.cancel != nil {
		p.cancel(p.spoilt)
	}
}

// stoppedBy begins to find out who has stopped a guest that QEMU migrates: QEMU, at the end of that, or somebody else. It
// cannot wait for the answer. p.mu is held.
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
			// Should we die the guardian ends the migration, and leaves the guest as its owner wants it.
			p.disowned = true
			_ = p.tell()
		}
	}()
}
