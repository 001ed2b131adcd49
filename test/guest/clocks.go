// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// countInterval is the time, by the guest's clock, between two counts.
const countInterval = 10 * time.Millisecond

// counter counts for as long as the guest lives.
func (g *guest) counter() {
	for range time.Tick(countInterval) {
		g.count.Add(1)
	}
}

// ticker says the counter unasked.
func (g *guest) ticker() {
	for {
		every := time.Duration(g.tick.Load()) * time.Millisecond
		if every == 0 {
			time.Sleep(countInterval)
			continue
		}
		time.Sleep(every)
		g.say("tick %d", g.count.Load())
	}
}

// cpu counts on one processor, so that one that did not come back shows.
func (g *guest) cpu(i int) {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(i)
	if unix.SchedSetaffinity(0, &set) != nil {
		return
	}
	for range time.Tick(countInterval) {
		g.cpus[i].Add(1)
	}
}

// paced calls work with the number of pages that are due at a rate in pages a
// second. What a slow or stopped machine could not do in time is not made up for.
func (g *guest) paced(rate *atomic.Int64, work func(n int)) {
	const period, most = 20 * time.Millisecond, 100 * time.Millisecond
	last, owed := time.Now(), 0.0
	for {
		time.Sleep(period)
		now := time.Now()
		owed += min(now.Sub(last), most).Seconds() * float64(rate.Load())
		last = now
		n := int(owed)
		owed -= float64(n)
		work(n)
	}
}

// watch returns the work of checking pages in order, around and around. A wrong
// page is said once each time it is met, and counted.
func (g *guest) watch() func(n int) {
	m, at := g.memory, 0
	return func(n int) {
		m.each(0, n, func(int) {
			if m.used == 0 {
				return
			}
			at = (at + 1) % m.used
			if !m.good(at) {
				m.wrong++
				g.say("corrupt page=%d entry=%#x", at, m.table[at])
			}
		})
	}
}
