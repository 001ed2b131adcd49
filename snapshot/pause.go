// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ramjet-vm/ramjet/qemu"
)

// pause is the time in which the guest does not run because of us. It has a guardian
// from before its begin until after its end.
type pause struct {
	vm       *qemu.VM
	guardian *qemu.Guardian
	orders   qemu.Orders // if nobody stopped the VM
	was      string      // the VM's state before
	stopped  bool        // by us, and not let go on yet
	since    time.Time
	stops    func()        // finds out when QEMU stopped the guest; nil if we did
	length   time.Duration // measured from stop to cont, both included
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
	p.orders.Sets = sets
	return p.tell()
}

// tell gives the guardian its orders as they are now.
func (p *pause) tell() error {
	o := p.orders
	o.Cont = p.stopped
	return p.guardian.Order(o)
}

// begin stops the guest. A VM that was paused already costs it nothing.
func (p *pause) begin(ctx context.Context) error {
	p.since = time.Now()
	if p.was != "running" {
		return nil
	}
	p.stopped = true
	if err := p.tell(); err != nil {
		return err
	}
	if err := p.vm.Stop(ctx); err != nil {
		return fmt.Errorf("cannot stop the VM: %w", err)
	}
	return nil
}

// beginWithQEMU is begin for a live migration, of which QEMU stops the guest itself: the pause counts from then on.
func (p *pause) beginWithQEMU(context.Context) error {
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

// mercy bounds how long we wait for a monitor when all that is left to do is to clean up.
const mercy = 20 * time.Second

// end lets the guest go on, or what else is to become of the VM. It may be called more than once.
func (p *pause) end(then Then) error {
	ctx, cancel := context.WithTimeout(context.Background(), mercy)
	defer cancel()
	if then == ThenQuit {
		p.stopped = false
		return p.vm.Quit(ctx)
	}
	if !p.stopped {
		return nil
	}
	if then != ThenStay {
		if err := p.vm.Cont(ctx); err != nil {
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

// close makes sure that the guest goes on, and lets the guardian go.
func (p *pause) close() error {
	return errors.Join(p.end(ThenResume), p.guardian.Close())
}
