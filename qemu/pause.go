// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Pause is the time for which a guest is stopped so that it can be saved, and what keeps that time from lasting for
// ever. A VM that is saved has one Pause, which may be begun and ended any number of times. Nothing else sends "stop",
// "cont" or "quit", except SpaceWatch after the pause.
//
// Its state says who stopped the guest, and so who may let it go on:
//
//	                    stop is sent           the guest is stopped       cont is sent
//	Free ── Hold ────────────────▶ Stopping ──────────────────▶ Held ── End(resume) ──▶ Resuming ──▶ Free
//	  │                               │                          │ └─── End(stay) ────▶ Left
//	  │                               │ another reason to stop    │ └─── End(quit) ────▶ Ended
//	  ├── Hold of a stopped guest ────┴──────────────▶ Foreign ◀──┘ Disown, panic, shutdown
//	  │                                                  └─ End(resume) ─▶ Free, and still stopped; else as for Held
//	  └── HoldByQEMU ─▶ Switching ── Switched ──▶ Held or Foreign, by the run state that QEMU found
//
//	Held, Foreign, Left ── RESUME that is not ours ──▶ Free
//	Left ── RESET ──▶ Free
//	any ── no answer to cont, or the monitor is gone ──▶ Lost
//
// In Stopping, Held, Switching and Resuming the guardian has the order to let the guest go on should this process die,
// or be stopped itself for GuardianPatience. In the other states nobody but the guest's owner lets it go on.
//
// While the guest is held its memory must not change. RESUME, RESET, GUEST_PANICKED, SHUTDOWN and SUSPEND, whoever
// causes them, spoil the pause: Check returns why, and the context that Hold returned ends. So do the end of the
// context that Hold was given, MaxLength, and a guardian that has let the guest go on. When the context that Hold
// returned ends the guest goes on at once, whatever the work in the pause still waits for.
//
// Commands and locks: stop, cont and quit are handed to the monitor under one lock, op, and the monitor executes them
// in that order. So a cont that undoes a stop cannot overtake it. Events are handled before any answer that QEMU sent
// after them (qmp.Client.Watch), under the other lock, mu, which nobody holds while waiting for QEMU.
//
// Hold, HoldByQEMU and Close are for one goroutine at a time. All other methods may be called at any time.
type Pause struct {
	// MaxLength ends a pause that gets longer because of us; 0: no limit. To be set before Hold.
	MaxLength time.Duration

	vm       *VM
	send     sendFunc // QMP.Send
	guardian *guardian
	unwatch  func()
	lock     *os.File // see Claim

	op sync.Mutex // see "Commands and locks"

	mu       sync.Mutex
	state    PauseState
	orders   guardianOrders // without Cont, which the state says
	found    string         // the VM's run state when it was stopped, or that which it had
	stops    int            // STOP events so far
	disowned bool           // in Stopping: somebody else wants the guest to be stopped too
	panicked bool           // in Stopping: the guest has panicked and is to stay stopped
	spoilt   error          // why what is written is worth nothing; nil if it is not so
	since    time.Time
	length   time.Duration
	limit    *time.Timer
	cancel   context.CancelCauseFunc // of the context that Hold returned; nil without
	disarm   func() bool             // of what ends the pause with that context
	beats    chan struct{}           // closed to end the heartbeat; nil without
	muted    bool                    // by a test: no heartbeat is sent
}

// sendFunc sends a command, and returns a function that waits for the answer to it.
type sendFunc func(ctx context.Context, cmd string, args any) (answer func(ctx context.Context, result any) error, err error)

// NewPause returns the pause of a VM, and watches that VM from now on. The guest is not touched.
func NewPause(vm *VM) *Pause {
	p := &Pause{vm: vm, send: vm.QMP.Send}
	p.unwatch = vm.QMP.Watch(p.event, "STOP", "RESUME", "RESET", "GUEST_PANICKED", "SHUTDOWN", "SUSPEND", "WAKEUP")
	return p
}

// State is the present state.
func (p *Pause) State() PauseState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Spoilt is why what was written in the last pause is worth nothing; nil if it is not known to be.
func (p *Pause) Spoilt() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoilt
}

// Length is how long the guest was stopped because of us, the execution of stop and cont included.
func (p *Pause) Length() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.length
}

// ImageState is the run state, by QEMU's name, that an image of this pause is to record. It is known when Hold has
// returned.
func (p *Pause) ImageState() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == "postmigrate" {
		// A paused VM that QEMU has saved itself has this state. It means nothing to another QEMU.
		return "paused"
	}
	return p.found
}

// Hold stops the guest, if it is not stopped. The guest's memory does not change until End; the context that Hold
// returns is for the work in between. After an error End(ThenResume) undoes what Hold did.
func (p *Pause) Hold(ctx context.Context) (context.Context, error) {
	answer, held, err := p.begin(ctx)
	if err != nil || answer == nil {
		return held, err
	}
	// QEMU may have stopped the guest even if no answer came: End lets it go on then.
	if err := answer(held, nil); err != nil {
		return held, fmt.Errorf("cannot stop the VM: %w", cmp.Or(p.Spoilt(), err))
	}
	status, err := p.vm.Status(held)
	if err != nil {
		return held, cmp.Or(p.Spoilt(), err)
	}
	return held, p.attribute(status)
}

// begin sends stop if the guest runs. answer is nil if it does not.
func (p *Pause) begin(ctx context.Context) (answer func(context.Context, any) error, held context.Context, err error) {
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.enter(ctx, Stopping); err != nil {
		return nil, ctx, err
	}
	held = p.arm(ctx)
	if p.State() == Foreign {
		return nil, held, nil
	}
	// Without the end of ctx: whether the command was sent must be known.
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), CleanupTimeout)
	defer cancel()
	answer, err = p.send(sending, "stop", nil)
	if err != nil {
		p.changeState(Free)
		return nil, held, fmt.Errorf("cannot stop the VM: %w", err)
	}
	return answer, held, nil
}

// enter finds out whether the guest runs. If it does the state becomes next, and the guardian gets its orders for that;
// else Foreign.
func (p *Pause) enter(ctx context.Context, next PauseState) error {
	for {
		p.mu.Lock()
		stops := p.stops
		p.mu.Unlock()
		status, err := p.vm.Status(ctx)
		if err != nil {
			return err
		}
		p.mu.Lock()
		if stops != p.stops { // the guest was stopped after that answer
			p.mu.Unlock()
			continue
		}
		p.found, p.spoilt, p.disowned, p.panicked, p.length, p.since = status, nil, false, false, 0, time.Now()
		p.state = Foreign
		if live(status) {
			p.state = next
		}
		err = p.instruct()
		if err != nil && p.state == Foreign {
			err = nil // a guardian that is gone will not let the guest go on either
		}
		if err != nil {
			p.state = Free
		}
		p.mu.Unlock()
		return err
	}
}

// Check returns an error if what was written since Hold is worth nothing: the guest was not stopped all the time, or
// the pause has been ended. It is to be called when all is read, and before anything that depends on the guest still
// being stopped.
func (p *Pause) Check(ctx context.Context) error {
	// Events that QEMU sent before the answer have been handled when the answer is here.
	status, err := p.vm.Status(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.spoilt != nil:
		return p.spoilt
	case err != nil:
		return err
	case p.state != Held && p.state != Foreign && p.state != Switching:
		return errPauseEnded
	case live(status):
		p.spoil(errResumed)
		p.setState(Free)
		return p.spoilt
	}
	return nil
}

// errPauseEnded is the reason when no better one is known.
var errPauseEnded = errors.New("the pause was ended before the save: nothing was saved")

// End ends the pause, if there is one, as then says. It may be called more than once, and by several goroutines; after
// an error it may be called again.
func (p *Pause) End(then Then) error {
	p.op.Lock()
	defer p.op.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), CleanupTimeout)
	defer cancel()
	switch then {
	case ThenQuit:
		return p.quit(ctx)
	case ThenStay:
		return p.leave()
	}
	return p.resume(ctx)
}

func (p *Pause) quit(ctx context.Context) error {
	if err := p.Check(ctx); err != nil {
		return fmt.Errorf("the VM was not ended, because it did not stand still to the end: %w", err)
	}
	if err := p.vm.Quit(ctx); err != nil {
		return err
	}
	p.changeState(Ended)
	return nil
}

// leave keeps the guest stopped. It does not matter then whether the guardian is gone.
func (p *Pause) leave() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.owed() || p.state == Foreign {
		p.setState(Left)
	} else if p.spoilt != nil {
		return fmt.Errorf("the VM was not kept as it stood: %w", p.spoilt)
	}
	return nil
}

// resume lets the guest go on if it is stopped because of us.
func (p *Pause) resume(ctx context.Context) error {
	p.mu.Lock()
	before := p.state
	switch {
	case before == Foreign:
		p.setState(Free)
		fallthrough
	case !before.owed():
		p.mu.Unlock()
		return nil
	}
	p.state = Resuming
	p.mu.Unlock()
	if before == Switching {
		// A migration that fails leaves the guest as it was, and it may be that somebody else had stopped it before.
		status, err := p.vm.Status(ctx)
		if err == nil && !transferring(status) {
			p.changeState(Free)
			return nil
		}
	}
	err := p.vm.Cont(ctx)
	if err == nil {
		p.changeState(Free)
		return nil
	}
	p.mu.Lock()
	p.state = Held
	if ctx.Err() != nil {
		p.state = Lost
	}
	p.mu.Unlock()
	return fmt.Errorf("cannot let the VM go on (send it \"cont\"): %w", err)
}

// changeState is setState for callers that do not hold p.mu.
func (p *Pause) changeState(s PauseState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setState(s)
}

// setState changes the state, tells the guardian if its orders change with that, and ends what belongs to the pause.
// p.mu is held.
func (p *Pause) setState(s PauseState) {
	before := p.state
	p.state = s
	if before.owed() && !s.owed() {
		p.length = time.Since(p.since)
		// The error of a guardian that is gone does not matter: it has no orders any more.
		_ = p.instruct()
	}
	if s == Held || s == Foreign {
		return
	}
	if p.disarm != nil {
		p.disarm()
		p.cancel(errPauseEnded)
		p.disarm, p.cancel = nil, nil
	}
	if p.limit != nil {
		p.limit.Stop()
		p.limit = nil
	}
}
