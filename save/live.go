// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ramjet-vm/ramjet/qemu"
)

// A live save copies memory while the guest runs, in passes: the first copies all, each other one reads all and writes what
// has changed since, by its mark (a hash with a random key). When another pass would leave no less for the pause, the guest is stopped and the last
// pass is made, which makes the image right to the last page whatever the ones before it saw.
//
// Marks need nothing of the guest or QEMU, and see every write, whoever makes it. The kernel's soft-dirty bits would cost
// less and are not used: a device's write into a page that was pinned before the bits were cleared sets none.

// Pass is one look at all of memory in a live save.
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

// live makes the passes while the guest runs.
func (n *native) live(ctx context.Context) error {
	if status, err := n.vm.Status(ctx); err != nil || status != "running" {
		if err != nil {
			return err
		}
		n.log("the guest does not run: there is nothing to gain from --live")
		return nil
	}
	for restarts := 0; ; {
		err := n.pass(ctx)
		blocks, e := qemu.QueryRAMBlocks(ctx, n.vm.QMP)
		if e != nil {
			return e
		}
		if slices.Equal(blocks, n.blocks) {
			if err != nil {
				return err
			}
			if n.steady() {
				return nil
			}
			continue
		}
		// What was copied has no place in the image any more.
		n.log("the VM's memory was changed (%d blocks, there were %d): starting again", len(blocks), len(n.blocks))
		n.result.Passes = nil
		if err := n.open(ctx, blocks); err != nil {
			return err
		}
		if restarts++; restarts > maxRestarts {
			return nil
		}
	}
}

// pass makes one.
func (n *native) pass(ctx context.Context) error {
	before, began := int64(0), time.Now()
	if n.engine != nil {
		before = n.engine.Progress.Bytes.Load()
	}
	n.Progress.SetPhase(fmt.Sprintf("copying memory while the guest runs, pass %d", len(n.result.Passes)+1))
	if err := n.savePages(ctx); err != nil {
		return err
	}
	p := Pass{n.engine.Progress.Bytes.Load() - before, time.Since(began).Seconds()}
	n.result.Passes = append(n.result.Passes, p)
	n.log("pass %d: %d bytes in %.3f s", len(n.result.Passes), p.Bytes, p.Seconds)
	return nil
}

// steady tells whether another pass would leave no less for the pause.
func (n *native) steady() bool {
	passes := n.result.Passes
	last := len(passes) - 1
	switch {
	case last == 0:
		return false
	case passes[last].Bytes <= enough:
		return true
	case float64(passes[last].Bytes) < shrink*float64(passes[last-1].Bytes) && len(passes) < maxPasses:
		return false
	}
	// What is left is what the guest dirties during a pass. If writing that is what takes the time, copying will
	// never get ahead of the guest.
	if all := passes[0]; passes[last].Bytes > all.Bytes/10 {
		n.result.GaveUp = true
		n.log("the guest dirties memory about as fast as it can be copied (%d bytes in %.3f s): the rest is copied in the pause", passes[last].Bytes, passes[last].Seconds)
	}
	return true
}
