// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Pause is the time in which a guest stands still so that it can be saved, and what keeps that time from lasting for ever. A VM
// that is saved has one Pause, which may be begun and ended any number of times. Nothing else sends "stop", "cont" or "quit", but SpaceWatch
// when the pause is over.
//
// Its state says who stopped the guest, and so who may let it go on:
//
//	                    stop is sent           it stands still            cont is sent
//	Free ── Hold ────────────────▶ Stopping ──────────────────▶ Held ── End(resume) ──▶ Resuming ──▶ Free
//	  │                               │                          │ └─── End(stay) ────▶ Left
//	  │                               │ stood for another reason  │ └─── End(quit) ────▶ Ended
//	  ├── Hold, it stands already ────┴──────────────▶ Foreign ◀──┘ Disown, panic, shutdown
//	  │                                                  └─ End(resume) ─▶ Free, and it stands as before; else as for Held
//	  └── HoldByQEMU ─▶ Switching ── Switched ──▶ Held or Foreign, by what QEMU found
//
//	Held, Foreign, Left ── RESUME that is not ours ──▶ Free
//	Left ── RESET ──▶ Free
//	any ── no answer to cont, or no monitor any more ──▶ Lost
//
// In Stopping, Held, Switching and Resuming the guardian has the order to let the guest go on should this process die, or
// stand still itself for GuardianPatience. In the other states nobody lets the guest go on but its owner.
//
// While the guest is held its memory must not change. RESUME, RESET, GUEST_PANICKED, SHUTDOWN and SUSPEND, whoever causes
// them, spoil the pause: Check returns why, and the context that Hold returned ends. So do the end of Hold's own context,
// MaxLength, and a guardian that has let the guest go on. When that context ends the guest goes on at once, whatever
// the work still waits for.
//
// The order of commands: stop, cont and quit are handed to the monitor under one lock, op, and the monitor carries them out in
// that order. So a cont that is to undo a stop cannot overtake it. Events are looked at before any answer that QEMU gave
// after them (qmp.Client.Watch), under the other lock, mu, which nobody holds while waiting for QEMU.
type Pause struct {
	// MaxLength ends a pause of ours that gets longer; 0: no limit. To be set before Hold.
	MaxLength time.Duration

	vm       *VM
	send     sendFunc // Monitor.Send
	guardian *guardian
	unwatch  func()
	lock     *os.File // see Claim

	op sync.Mutex // see above

	mu       sync.Mutex
	state    PauseState
	orders   guardianOrders // without Cont, which the state says
	found    string         // the VM's run state when it was stopped, or that in which it stood
	stops    int            // STOP events so far
	disowned bool           // in Stopping: somebody else wants the guest to stand still too
	panicked bool           // in Stopping: the guest has panicked and is to stand still
	spoilt   error          // why what is written is worth nothing; nil if it is not so
	since    time.Time
	length   time.Duration
	limit    *time.Timer
	cancel   context.CancelCauseFunc // of the context that Hold returned; nil without
	disarm   func() bool             // of what ends the pause with that context
	beats    chan struct{}           // closed to end the heartbeat; nil without
	muted    bool                    // by a test: no heartbeat is sent
}

type sendFunc func(ctx context.Context, cmd string, args any) (answer func(ctx context.Context, result any) error, err error)

// PauseState is described at Pause.
type PauseState int

// The states of a Pause.
const (
	Free      PauseState = iota // the guest does what it does
	Stopping                    // "stop" is on its way
	Held                        // we stopped the guest, and owe it to let it go on
	Foreign                     // the guest stood already, or is to stand for a reason that is not ours
	Switching                   // QEMU migrates on our behalf, and stops the guest itself
	Resuming                    // "cont" is on its way
	Left                        // the guest stands as we were told to leave it, until somebody says "cont"
	Ended                       // QEMU was told to quit
	Lost                        // QEMU does not answer: the guardian does what is to be done
)

func (s PauseState) String() string {
	return [...]string{"free", "stopping", "held", "foreign", "switching", "resuming", "left", "ended", "lost"}[s]
}

// owed says that the guest stands, or will, because of us.
func (s PauseState) owed() bool {
	return s == Stopping || s == Held || s == Switching || s == Resuming
}

// Then says what becomes of a VM that was saved.
type Then string

// ThenResume lets a VM that ran go on; one that was paused stays so with each of the first two.
const (
	ThenResume Then = "resume"
	ThenStay   Then = "stay"
	ThenQuit   Then = "quit"
)

// NewPause returns the pause of a VM, which it watches from now on. The guest is not touched.
func NewPause(vm *VM) *Pause {
	p := &Pause{vm: vm, send: vm.QMP.Send}
	p.unwatch = vm.QMP.Watch(p.event, "STOP", "RESUME", "RESET", "GUEST_PANICKED", "SHUTDOWN", "SUSPEND", "WAKEUP")
	return p
}

// State is the present one.
func (p *Pause) State() PauseState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Spoilt is why what was written in the last pause is worth nothing, nil if nothing is known against it.
func (p *Pause) Spoilt() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoilt
}

// Length is how long the guest stood because of us, from stop to cont, both included.
func (p *Pause) Length() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.length
}

// ImageState is the run state that an image of this pause is to say, by QEMU's name. It is known once Hold has returned.
func (p *Pause) ImageState() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == "postmigrate" {
		// QEMU calls a paused VM so that it has saved since. That means something in that process only.
		return "paused"
	}
	return p.found
}

// live says that a guest in this run state goes on by itself (runstate_is_live).
func live(status string) bool { return status == "running" || status == "suspended" }

// Hold stops the guest, if it is not stopped. Nothing of it changes until End; the context that Hold returns is for the work in
// between. After an error End(ThenResume) undoes what was done of it.
func (p *Pause) Hold(ctx context.Context) (context.Context, error) {
	answer, held, err := p.begin(ctx)
	if err != nil || answer == nil {
		return held, err
	}
	// Without its answer the command may have been carried out: End sees to that.
	if err := answer(held, nil); err != nil {
		return held, fmt.Errorf("cannot stop the VM: %w", cmp(p.Spoilt(), err))
	}
	status, err := p.vm.Status(held)
	if err != nil {
		return held, cmp(p.Spoilt(), err)
	}
	return held, p.settle(status)
}

// cmp is the first of two errors that is one.
func cmp(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// begin sends stop to a guest that runs. answer is nil for one that stands.
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
	// Not with ctx: whether it was sent must be known.
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), CleanupTimeout)
	defer cancel()
	answer, err = p.send(sending, "stop", nil)
	if err != nil {
		p.become(Free)
		return nil, held, fmt.Errorf("cannot stop the VM: %w", err)
	}
	return answer, held, nil
}

// enter looks at the guest and, if it runs, goes to the state next, with the guardian's orders for that.
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
		if stops != p.stops { // it was stopped behind that answer
			p.mu.Unlock()
			continue
		}
		p.found, p.spoilt, p.disowned, p.panicked, p.length, p.since = status, nil, false, false, 0, time.Now()
		p.state = Foreign
		if live(status) {
			p.state = next
		}
		err = p.tell()
		if err != nil && p.state == Foreign {
			err = nil // a guardian that is gone will not let it go on either
		}
		if err != nil {
			p.state = Free
		}
		p.mu.Unlock()
		return err
	}
}

// settle finds out why the guest stands, from its state after stop.
func (p *Pause) settle(status string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state != Stopping:
		return cmp(p.spoilt, errOver)
	case status == "suspended" && p.found == status:
		return errors.New("this QEMU cannot stop a VM that sleeps (S3): it can since 9.0; wake it up for the save")
	case live(status):
		p.spoil(errResumed)
		p.become0(Free)
		return p.spoilt
	case transferring(status):
		p.become0(Foreign)
		p.found = status
		return fmt.Errorf("somebody else saves or migrates this VM just now (%s): wait for it", status)
	case p.panicked:
		p.found = "guest-panicked"
		p.become0(Foreign)
	case p.disowned:
		p.found = "paused"
		p.become0(Foreign)
	case status == "paused", status == "prelaunch": // ours, or ours and reset
		p.become0(Held)
	case standing(status):
		p.found = status
		p.become0(Foreign)
	default:
		return fmt.Errorf("cannot stop the VM: QEMU says that it is %q", status)
	}
	return nil
}

// standing are the run states of a VM that stood before our command, or that something else stopped together with it.
func standing(status string) bool {
	switch status {
	case "io-error", "guest-panicked", "shutdown", "watchdog", "internal-error", "debug", "preconfig":
		return true
	}
	return false
}

// transferring are the run states of a VM that QEMU saves, migrates or loads.
func transferring(status string) bool {
	switch status {
	case "finish-migrate", "postmigrate", "save-vm", "restore-vm", "inmigrate", "colo":
		return true
	}
	return false
}

// HoldByQEMU is Hold for a migration that QEMU is about to begin, of a guest that goes on meanwhile: QEMU stops it at the end.
// Then Switched has to be called, before Check and End.
func (p *Pause) HoldByQEMU(ctx context.Context) (context.Context, error) {
	p.op.Lock()
	defer p.op.Unlock()
	if err := p.enter(ctx, Switching); err != nil {
		return ctx, err
	}
	return p.arm(ctx), nil
}

// Switched says in which state QEMU found the guest when it stopped it, or that it was to stop it. A guest that
// somebody else had stopped by then is not ours.
func (p *Pause) Switched(found string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != Switching {
		return
	}
	p.found = found
	if live(found) {
		p.become0(Held)
	} else {
		p.become0(Foreign)
	}
}

// StopNow stops a guest that goes on while QEMU migrates it.
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
		return err // it stands already: Switched will be told why
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

// arm makes the context for the work in the pause.
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

// startLimit begins to count to MaxLength. p.mu is held.
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

// Check returns an error if what was written since Hold is worth nothing: the guest did not stand still all the time, or the
// pause has been ended. It is to be called when all is read, and before anything that depends on the guest still standing.
func (p *Pause) Check(ctx context.Context) error {
	// What QEMU told before it answers this has been looked at when the answer is here.
	status, err := p.vm.Status(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.spoilt != nil:
		return p.spoilt
	case err != nil:
		return err
	case p.state != Held && p.state != Foreign && p.state != Switching:
		return errOver
	case live(status):
		p.spoil(errResumed)
		p.become0(Free)
		return p.spoilt
	}
	return nil
}

// errOver is what is left to say when nobody knows more.
var errOver = errors.New("the pause was ended before the save: nothing was saved")

// End ends the pause, as then says, if there is one. It may be called at any time, more than once, and by several goroutines;
// after an error it may be called again.
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
	p.become(Ended)
	return nil
}

// leave keeps the guest as it stands. That the guardian is gone does not matter then.
func (p *Pause) leave() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.owed() || p.state == Foreign {
		p.become0(Left)
	} else if p.spoilt != nil {
		return fmt.Errorf("the VM was not kept as it stood: %w", p.spoilt)
	}
	return nil
}

// resume lets a guest go on that stands because of us.
func (p *Pause) resume(ctx context.Context) error {
	p.mu.Lock()
	before := p.state
	switch {
	case before == Foreign:
		p.become0(Free)
		fallthrough
	case !before.owed():
		p.mu.Unlock()
		return nil
	}
	p.state = Resuming
	p.mu.Unlock()
	if before == Switching {
		// QEMU gives a guest back as it was when its migration fails, and somebody else may have stopped it before.
		status, err := p.vm.Status(ctx)
		if err == nil && !transferring(status) {
			p.become(Free)
			return nil
		}
	}
	err := p.vm.Cont(ctx)
	if err == nil {
		p.become(Free)
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

// Forsake leaves the VM to the guardian: QEMU does not do what it is told as long as we can wait.
func (p *Pause) Forsake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = Lost
}

// Disown says that somebody else wants the guest to stand still too: End will not let it go on.
func (p *Pause) Disown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case Stopping:
		p.disowned = true
	case Held:
		p.found = "paused"
		p.become0(Foreign)
	}
}

// become is become0 for those who do not hold p.mu.
func (p *Pause) become(s PauseState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.become0(s)
}

// become0 changes the state, tells the guardian if that changes what it has to do, and ends what belongs to a pause. p.mu is held.
func (p *Pause) become0(s PauseState) {
	before := p.state
	p.state = s
	if before.owed() && !s.owed() {
		p.length = time.Since(p.since)
		// A guardian that is gone has no orders left to be taken back.
		_ = p.tell()
	}
	if s == Held || s == Foreign {
		return
	}
	if p.disarm != nil {
		p.disarm()
		p.cancel(errOver)
		p.disarm, p.cancel = nil, nil
	}
	if p.limit != nil {
		p.limit.Stop()
		p.limit = nil
	}
}
