// SPDX-License-Identifier: Apache-2.0

// Package snapshot does what a user asks for, on a VM and an image file: Save, Restore, Clone; Inspect, Verify, Diff, Export,
// Import and Seal on images; and SaveMemory for programs that have memory of their own to save.
//
// The order of things is what makes it safe. A save checks all that can be checked, makes
// its unfinished file, starts the guardian, and only then stops the guest; lets it go on as soon as
// its memory is written; and gives the file its name when all of it is durable. Whatever
// fails in between, the VM runs on and no file or an older one lies at the image's name.
package image

import (
	"sync/atomic"
	"time"

	"github.com/ramjet-vm/ramjet/transfer"
)

// Moving begins a phase in which as many bytes are moved as are dealt with; moved counts them.
func (p *Progress) Moving(phase string, total int64) (moved func(int)) {
	if p == nil {
		return func(int) {}
	}
	p.SetPhase(phase)
	p.Done.Store(0)
	p.Bytes.Store(0)
	p.Total.Store(total)
	return func(n int) {
		p.Done.Add(int64(n))
		p.Bytes.Add(int64(n))
	}
}

// Progress tells how far a Save or Restore is. It may be read at any time, from another goroutine.
type Progress struct {
	Phase atomic.Pointer[string] // what is being done, a few words
	Done  atomic.Int64           // bytes of guest memory dealt with
	Total atomic.Int64           // bytes of guest memory; 0 until known
	Bytes atomic.Int64           // page data moved
}

func (p *Progress) SetPhase(s string) {
	if p != nil {
		p.Phase.Store(&s)
	}
}

// Follow copies an engine's counts to p now and then, until it is stopped.
func (p *Progress) Follow(e *transfer.Progress) (stop func()) {
	if p == nil {
		return func() {}
	}
	copyCounts := func() {
		p.Done.Store(e.Passed.Load())
		p.Total.Store(e.Total.Load())
		p.Bytes.Store(e.Bytes.Load())
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			copyCounts()
			select {
			case <-tick.C:
			case <-done:
				copyCounts()
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
