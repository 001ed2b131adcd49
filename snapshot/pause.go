// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/qemu"
)

// pause is the time in which the guest does not run because of us. It has a guardian
// from before its begin until after its end.
type pause struct {
	vm       *qemu.VM
	guardian *qemu.Guardian

	mu      sync.Mutex  // over what follows: the pause may be ended while the work goes on
	orders  qemu.Orders // if nobody stopped the VM
	was     string      // the VM's state before
	stopped bool        // by us, and not let go on yet
	since   time.Time
	stops   func()        // finds out when QEMU stopped the guest; nil if we did
	deaf    bool          // QEMU does not answer, or not what it should
	length  time.Duration // measured from stop to cont, both included
}

func newPause(ctx context.Context, vm *qemu.VM, files []string) (*pause, error) {
	g, err := vm.StartGuardian()
	if err != nil {
		return nil, err
	}
	p := &pause{vm: vm, guardian: g, orders: qemu.Orders{Files: files}}
	if p.was, err = vm.Status(ctx); err == nil {
		err = g.Order(p.orders)
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return p, nil
}

// state is what an image says that the VM did. QEMU calls a VM that was paused, and that it has saved itself since,
// by another name, which means something in that process only.
func (p *pause) state() string {
	if p.was == "postmigrate" {
		return "paused"
	}
	return p.was
}

// order has the guardian take these descriptor sets away too, if we die.
func (p *pause) order(sets ...int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders.Sets = sets
	return p.tell()
}

// migrates has the guardian bring QEMU's migration to its end, if we die, and undo what was set for it; nothing without either.
func (p *pause) migrates(hurry, undo []qemu.Command) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders.Hurry, p.orders.Undo = hurry, undo
	return p.tell()
}

// lost tells whether we have no monitor any more. QEMU may well have one: its guardian's connection is another descriptor.
func (p *pause) lost() bool {
	select {
	case <-p.vm.Monitor.Done():
		return true
	default:
		return false
	}
}

// tell gives the guardian its orders as they are now. When the monitor is lost it keeps those that it has, since then only it can
// do what there is to be done.
func (p *pause) tell() error {
	if p.lost() {
		return nil
	}
	o := p.orders
	o.Cont = p.stopped
	return p.guardian.Order(o)
}

// begin stops the guest. A VM that was paused already costs it nothing.
func (p *pause) begin(ctx context.Context) error {
	if p.was != "running" {
		return nil
	}
	p.mu.Lock()
	p.since = time.Now()
	p.stopped = true
	err := p.tell()
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if err := p.vm.Stop(ctx); err != nil {
		return fmt.Errorf("cannot stop the VM: %w", err)
	}
	return nil
}

// beginWithQEMU is begin for a live migration, of which QEMU stops the guest itself: the pause counts from then on.
func (p *pause) beginWithQEMU(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Now()
	if p.was != "running" {
		return nil
	}
	p.stopped = true
	events, cancel := p.vm.Monitor.Subscribe("STOP")
	p.stops = func() {
		defer cancel()
		select {
		case e, ok := <-events:
			if ok && !e.Time.IsZero() {
				p.since = e.Time
			}
		default:
		}
	}
	return p.tell()
}

// endWith ends the pause as soon as ctx ends, whatever the work is waiting for: a write to a file server that is gone cannot be
// cancelled, and the guest need not wait for it. The work must come to nothing then.
func (p *pause) endWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = p.end(ThenResume) })
}

// end lets the guest go on, or what else is to become of the VM. It may be called more than once.
func (p *pause) end(then Then) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), qemu.Mercy)
	defer cancel()
	if then == ThenQuit {
		err := p.vm.Quit(ctx)
		p.stopped = p.stopped && err != nil
		return err
	}
	if !p.stopped {
		return nil
	}
	if then != ThenStay {
		if err := p.vm.Cont(ctx); err != nil {
			p.deaf = ctx.Err() != nil
			return fmt.Errorf("cannot let the VM go on (send it \"cont\"): %w", err)
		}
	}
	p.stopped = false
	if p.stops != nil {
		p.stops()
	}
	p.length = time.Since(p.since)
	return p.tell()
}

// close makes sure that the guest goes on, and lets the guardian go; or leaves the rest to it, if QEMU does not hear us: it
// waits longer than we can.
func (p *pause) close() error {
	var err error
	wait := qemu.Mercy
	if p.deaf {
		wait = time.Second
	} else {
		err = p.end(ThenResume)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || p.deaf || p.lost() {
		p.vm.Close()
		p.guardian.Abandon(wait)
		return err
	}
	return errors.Join(err, p.guardian.Close())
}
