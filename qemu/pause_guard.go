// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrFrozen is why a pause was ended by its guardian while we live.
var ErrFrozen = fmt.Errorf("ramjet was stopped for more than %v in the pause (SIGSTOP, a frozen cgroup?), so its guardian let the VM go on: nothing was saved", GuardianPatience)

// Claim keeps a second ramjet from saving the same VM meanwhile, by whatever monitor of it: the first to be done would let the
// guest go on under the other's hands. The lock is on a file of /proc that only those can open who may
// read the VM's memory, and goes with this process. Unclaim gives it back.
func (p *Pause) Claim() error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", p.vm.PID))
	if err != nil {
		return nil // what is needed of that file is asked for elsewhere, with a better sentence
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return fmt.Errorf("another ramjet is saving this VM (process %d) just now: wait for it", p.vm.PID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lock.Close() // nil, too
	p.lock = f
	return nil
}

// Unclaim undoes Claim. It may be called without that.
func (p *Pause) Unclaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lock.Close()
	p.lock = nil
}

// Guard has a guardian stand by from now on, which removes the unfinished files, too, should this process die. It is needed
// before Hold.
func (p *Pause) Guard(files ...string) error {
	g, err := p.vm.startGuardian(files...)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guardian = g
	return p.tell()
}

// Sets has the guardian take these descriptor sets away, too.
func (p *Pause) Sets(sets ...int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders.Sets = sets
	return p.tell()
}

// Migrates has the guardian bring QEMU's migration to its end, too, and undo what was set for it; nothing without either.
func (p *Pause) Migrates(hurry, undo []Command) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders.Hurry, p.orders.Undo = hurry, undo
	return p.tell()
}

// lost says that we have no monitor any more. QEMU may well have one: its guardian's connection is another descriptor.
func (p *Pause) lost() bool {
	select {
	case <-p.vm.QMP.Done():
		return true
	default:
		return false
	}
}

// tell gives the guardian its orders as they are now. When the monitor is lost it keeps those that it has, since then only the
// guardian can do what there is to be done. p.mu is held.
func (p *Pause) tell() error {
	if p.guardian == nil || p.lost() {
		return nil
	}
	o := p.orders
	o.Cont = p.state.owed() && !(p.state == Switching && p.disowned)
	p.watchUs(o.Cont || len(o.Hurry) > 0)
	return p.guardian.order(o)
}

// watchUs has the guardian hear a heartbeat from us, or not. It comes from a goroutine that needs p.mu for it, so it
// shows that this process runs and that the pause can be ended. It does not show that the work gets ahead: a disk may be slow,
// and MaxLength is for one that is too slow. p.mu is held.
func (p *Pause) watchUs(on bool) {
	switch {
	case on && p.beats == nil:
		p.beats = make(chan struct{})
		stopSignals.ignore()
		go p.beat(p.guardian, p.beats)
	case !on && p.beats != nil:
		close(p.beats)
		p.beats = nil
		stopSignals.restore()
	}
}

// beat tells the guardian until end that we are alive.
func (p *Pause) beat(g *guardian, end chan struct{}) {
	for tick := time.Tick(heartbeatInterval); ; {
		select {
		case <-end:
			return
		case <-tick:
		}
		p.mu.Lock()
		var err error
		if !p.muted {
			err = g.Beat()
		}
		p.mu.Unlock()
		if err == nil {
			continue
		}
		if !g.acting() {
			return // it was killed: the next Hold will tell
		}
		p.mu.Lock()
		p.state = Lost
		p.spoil(ErrFrozen)
		p.mu.Unlock()
		// Two readers of one connection take each other's answers.
		p.vm.QMP.Close()
		return
	}
}

// Close makes sure that the guest goes on, and lets the guardian go; or leaves the rest to it, if QEMU does not hear us: the
// guardian waits longer than we can. The monitor is closed only in that case.
func (p *Pause) Close() error {
	var err error
	wait := CleanupTimeout
	if p.State() == Lost {
		wait = time.Second
	} else {
		err = p.End(ThenResume)
	}
	p.unwatch()
	p.Unclaim()
	p.mu.Lock()
	p.watchUs(false)
	g, rest := p.guardian, p.state.owed() || p.state == Lost || p.lost()
	p.guardian = nil
	p.mu.Unlock()
	if g == nil {
		return err
	}
	if !rest {
		gone := g.dismiss()
		if rest = errors.Is(gone, ErrNoGuardian); !rest {
			return errors.Join(err, gone)
		}
		err = errors.Join(err, gone)
	}
	p.vm.Close()
	g.abandon(wait)
	if g.acted() {
		// The end of the connection may have been seen before the guardian's.
		p.mu.Lock()
		p.spoilt = ErrFrozen
		p.mu.Unlock()
	}
	return err
}

// stops are the signals by which a terminal stops a process: Ctrl-Z, and reading and writing in the background. While the guest
// stands still because of us they are ignored. They cannot be caught instead: what is written to the terminal from the
// background would be tried again for ever then (tty_check_change).
type stops struct {
	mu      sync.Mutex
	pauses  int
	ignored []os.Signal // by us
}

var stopSignals stops

func (s *stops) ignore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pauses++; s.pauses > 1 {
		return
	}
	for _, sig := range []os.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU} {
		if !signal.Ignored(sig) {
			signal.Ignore(sig)
			s.ignored = append(s.ignored, sig)
		}
	}
}

func (s *stops) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pauses--; s.pauses == 0 && len(s.ignored) > 0 {
		signal.Reset(s.ignored...)
		s.ignored = nil
	}
}
