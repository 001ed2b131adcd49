// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ramjet-vm/ramjet/qemu"
)

// live is the way of a live save: memory is copied while the guest runs, in passes. The first copies all, each later one reads all
// and writes what has changed since, by its mark (a hash with a random key). When another pass would leave no less for the pause,
// the guest is stopped for the last pass, which makes the image right to the last page whatever the passes before saw.
//
// Marks need nothing of the guest or QEMU, and see every write, whoever makes it. The kernel's soft-dirty bits would cost
// less and are not used: a device's write into a page that was pinned before the bits were cleared sets none.
type live struct {
	n      *native
	passes []Pass
	gaveUp bool
}

// Pass is one pass over all of memory in a live save.
type Pass struct {
	Bytes   int64   `json:"bytes"`   // written: in each pass but the first what had changed since the one before
	Seconds float64 `json:"seconds"` // it took
}

const (
	// maxPasses bounds the passes while the guest runs.
	maxPasses = 8
	// maxRestarts is how often memory may be plugged in, or firmware resize it, before a live save goes on in a pause.
	maxRestarts = 3
	// shrink is by what factor a pass has to write less than the one before to be worth another one.
	shrink = 0.7
	// enough is what the pause may have to write in any case, in bytes: no pass is made to make less of it.
	enough = 4 << 20
)

// beforePause makes the passes while the guest runs.
func (l *live) beforePause(ctx context.Context) error {
	n := l.n
	if status, err := n.j.vm.Status(ctx); err != nil || status != "running" {
		if err == nil {
			n.j.log("the guest does not run: there is nothing to gain from --live")
		}
		return err
	}
	for restarts := 0; restarts <= maxRestarts; {
		err := l.pass(ctx)
		blocks, e := qemu.QueryRAMBlocks(ctx, n.j.vm.QMP)
		if e != nil {
			return e
		}
		if slices.Equal(blocks, n.blocks) {
			if err != nil || l.steady() {
				return err
			}
			continue
		}
		// What was copied has no place in the image any more.
		n.j.log("the VM's memory was changed (%d blocks, there were %d): starting again", len(blocks), len(n.blocks))
		l.passes = nil
		if err := n.open(ctx, blocks); err != nil {
			return err
		}
		restarts++
	}
	return nil
}

// inPause makes the last pass.
func (l *live) inPause(ctx context.Context) error { return l.n.writePages(ctx) }

func (l *live) report(c *copied) { c.passes, c.gaveUp = l.passes, l.gaveUp }

// pass makes one pass.
func (l *live) pass(ctx context.Context) error {
	n := l.n
	before, began := n.pages.Progress.Bytes.Load(), time.Now()
	n.j.o.Progress.SetPhase(fmt.Sprintf("copying memory while the guest runs, pass %d", len(l.passes)+1))
	if err := n.writePages(ctx); err != nil {
		return err
	}
	p := Pass{n.pages.Progress.Bytes.Load() - before, time.Since(began).Seconds()}
	l.passes = append(l.passes, p)
	n.j.log("pass %d: %d bytes in %.3f s", len(l.passes), p.Bytes, p.Seconds)
	return nil
}

// steady reports whether another pass would leave no less for the pause.
func (l *live) steady() bool {
	last := len(l.passes) - 1
	p := l.passes[last]
	switch {
	case last == 0:
		return false
	case p.Bytes <= enough:
		return true
	case float64(p.Bytes) < shrink*float64(l.passes[last-1].Bytes) && len(l.passes) < maxPasses:
		return false
	}
	// What is left is what the guest dirties during a pass. If writing that is what takes the time, copying will
	// never get ahead of the guest.
	if p.Bytes > l.passes[0].Bytes/10 {
		l.gaveUp = true
		l.n.j.log("the guest dirties memory about as fast as it can be copied (%d bytes in %.3f s): the rest is copied in the pause", p.Bytes, p.Seconds)
	}
	return true
}
