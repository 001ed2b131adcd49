// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"time"
)

// Prefetch is whether the pages of an instantly restored VM are read into the page cache while it runs.
type Prefetch string

// PrefetchOn is the default. PrefetchWait has Restore return only when all pages are there.
const (
	PrefetchOn   Prefetch = "on"
	PrefetchOff  Prefetch = "off"
	PrefetchWait Prefetch = "wait"
)

// prefetchBehind starts the prefetcher for a VM that runs, if that is wanted, and with PrefetchWait waits for it. Without a prefetcher
// the VM runs as well, so errors are only logged.
func (r *restore) prefetchBehind(ctx context.Context, v *VM) {
	if r.o.Mode == Eager {
		v.ResidentSeconds = v.RunningSeconds
		return
	}
	if r.o.Prefetch == PrefetchOff || len(r.launch.Files) == 0 {
		return
	}
	done, err := r.prefetch(ctx, v.PID)
	if err != nil {
		r.o.log("no prefetch: %v", err)
	}
	if done != nil && !done.Partial {
		v.ResidentSeconds = time.Since(r.o.Began).Seconds()
	}
}

// prefetch starts the prefetcher. With PrefetchWait it returns when the work is done, or when ctx ends, and then the work goes on.
func (r *restore) prefetch(ctx context.Context, pid int) (*prefetched, error) {
	order := prefetchOrder{PID: pid, Base: r.image.Base != nil}
	for _, b := range r.image.Blocks {
		if r.outside[b.Name] {
			order.Blocks = append(order.Blocks, b.Name)
		}
	}
	p, err := Prefetcher.Start(nil, r.launch.Files...)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.Order(order); err != nil || r.o.Prefetch != PrefetchWait {
		return nil, err
	}
	defer context.AfterFunc(ctx, p.Close)()
	var done prefetched
	err = p.Answer(&done)
	switch {
	case err == nil:
		return &done, nil
	case ctx.Err() != nil:
		return nil, nil
	case p.Err() != nil:
		return nil, p.Err()
	}
	return nil, err
}
