// SPDX-License-Identifier: Apache-2.0

package image

import (
	"sync/atomic"
	"time"

	"github.com/ramjet-vm/ramjet/transfer"
)

// Progress counts how far a job is. Its fields may be read at any time, from any goroutine. The methods do nothing on nil.
type Progress struct {
	Phase atomic.Pointer[string] // what is being done, a few words
	Done  atomic.Int64           // bytes of guest memory dealt with
	Total atomic.Int64           // bytes of guest memory; 0 until known
	Bytes atomic.Int64           // page data moved
}

// SetPhase begins a phase.
func (p *Progress) SetPhase(s string) {
	if p != nil {
		p.Phase.Store(&s)
	}
}

// Moving begins a phase that moves total bytes. The caller calls moved with the number of bytes of each piece.
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

// Follow copies an engine's counts to p, 20 times a second, until stop is called.
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

// Lap adds the seconds until stop is called to total.
func Lap(total *float64) (stop func()) {
	began := time.Now()
	return func() { *total += time.Since(began).Seconds() }
}
