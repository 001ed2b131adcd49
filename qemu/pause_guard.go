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

// ErrFrozen is the error of a pause that the guardian ended, because this process had been stopped for
// GuardianPatience.
var ErrFrozen = fmt.Errorf("ramjet was stopped for more than %v in the pause (SIGSTOP, a frozen cgroup?), so its guardian let the VM go on: nothing was saved", GuardianPatience)

// Claim keeps a second ramjet from saving the same VM at the same time, by whatever monitor: the first to be done would
// let the guest go on while the other still reads. The lock is on a file of /proc that only those can open who may read
// the VM's memory. It ends with Unclaim, or with this process.
func (p *Pause) Claim() error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", p.vm.PID))
	if err != nil {
		return nil // whoever needs the file has a better error for that
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

// Guard starts a guardian, which also removes the unfinished files should this process die. It has to be called before
// Hold.
func (p *Pause) Guard(files ...string) error {
	g, err := p.vm.startGuardian(files...)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guardian = g
	return p.instruct()
}

// Sets tells the guardian which descriptor sets to remove.
func (p *Pause) Sets(sets ...int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders.Sets = sets
	return p.instruct()
}

// Migrates tells the guardian that QEMU migrates: hurry brings that to its end, and undo undoes what was set for it.
// Both are nil when the migration has ended.
func (p *Pause) Migrates(hurry, undo []Command) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders.Hurry, p.orders.Undo = hurry, undo
	return p.instruct()
}

// lost reports whether the connection to the monitor has ended. The guardian may still reach QEMU: it has another
// descriptor.
func (p *Pause) lost() bool {
	select {
	case <-p.vm.QMP.Done():
		return true
	default:
		return false
	}
}

// instruct gives the guardian the orders for the present state. When the connection to the monitor has ended the
// guardian keeps the orders that it has, since then only the guardian can follow them. p.mu is held.
func (p *Pause) instruct() error {
	if p.guardian == nil || p.lost() {
		return nil
	}
	o := p.orders
	o.Cont = p.state.owed() && !(p.state == Switching && p.disowned)
	p.heartbeat(o.Cont || len(o.Hurry) > 0)
	return p.guardian.order(o)
}

// heartbeat turns the heartbeats to the guardian on or off. A goroutine sends them that needs p.mu for each, so they
// show that this process runs and that the pause can be ended. They do not show that the work makes progress: a disk
// may be slow, and MaxLength is for one that is too slow. p.mu is held.
func (p *Pause) heartbeat(on bool) {
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

// beat sends heartbeats until end is closed.
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
			return // the guardian was killed: the next Hold returns that error
		}
		p.mu.Lock()
		p.state = Lost
		p.spoil(ErrFrozen)
		p.mu.Unlock()
		// The guardian reads from the same connection, and two readers would take each other's answers.
		p.vm.QMP.Close()
		return
	}
}

// Forsake leaves the VM to the guardian, which waits longer for QEMU than this process can.
func (p *Pause) Forsake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = Lost
}

// Close makes sure that the guest goes on, and ends the guardian. If QEMU does not answer it leaves the rest to the
// guardian, which waits longer than this process can; only then the connection to the monitor is closed.
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
	p.heartbeat(false)
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
		// The guardian shuts the connection down before it ends, so that end may have been noticed before.
		p.mu.Lock()
		p.spoilt = ErrFrozen
		p.mu.Unlock()
	}
	return err
}

// stopSignalGuard ignores the signals by which a terminal stops a process while a guest is stopped because of us:
// Ctrl-Z, and reading or writing in the background. They cannot be caught instead: the kernel would then repeat a write
// from the background for ever (tty_check_change).
type stopSignalGuard struct {
	mu      sync.Mutex
	pauses  int
	ignored []os.Signal
}

var stopSignals stopSignalGuard

func (s *stopSignalGuard) ignore() {
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

func (s *stopSignalGuard) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pauses--; s.pauses == 0 && len(s.ignored) > 0 {
		signal.Reset(s.ignored...)
		s.ignored = nil
	}
}
