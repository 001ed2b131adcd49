// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"context"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
)

// set changes the status and emits the event; the caller holds o.mu.
func (o *Outgoing) set(status string) {
	o.status = status
	if o.events {
		o.Emit("MIGRATION", map[string]string{"status": status})
	}
}

// advance changes the status unless the migration is being cancelled.
func (o *Outgoing) advance(status string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.status == statusCancelling {
		return
	}
	if status == StatusActive {
		o.stats.active = time.Now()
	}
	o.set(status)
}

// record changes the statistics.
func (o *Outgoing) record(change func(*statistics)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(&o.stats)
}

// countPass counts a pass over all of the memory.
func (o *Outgoing) countPass() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.passes++
	if o.events {
		o.Emit("MIGRATION_PASS", map[string]int{"pass": o.stats.passes})
	}
}

// pause waits in pre-switchover for Continue.
func (o *Outgoing) pause(ctx context.Context) error {
	o.mu.Lock()
	goOn := make(chan struct{})
	if o.status != statusCancelling {
		o.goOn = goOn
		o.set(statusPaused)
	}
	o.mu.Unlock()
	select {
	case <-goOn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// commit returns nil if the file may be published; from then on it is too late to cancel.
func (o *Outgoing) commit() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.status == statusCancelling {
		return errCancelled
	}
	o.publishing = true
	return nil
}

// liftLimit removes the bandwidth limit for what is written while the guest is stopped (QEMU
// migration_switchover_start).
func (o *Outgoing) liftLimit() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unlimited = true
	o.limit.Set(0)
}

// writeZeros reports whether pages of zeros count as written.
func (o *Outgoing) writeZeros() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stats.writeZeros
}

// Continue lets a migration in pre-switchover go on; state is the status that the client expects. For answer see Start.
func (o *Outgoing) Continue(state string, answer func()) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	status := o.status
	if status == "" {
		status = "none"
	}
	if status != state {
		return qmp.Errorf("Migration not in expected state: %s", status)
	}
	if o.goOn != nil {
		called(answer)
		close(o.goOn)
		o.goOn = nil
	}
	return nil
}

// Cancel cancels the migration that is under way, if there is one, and does not wait for its end. For answer see Start.
func (o *Outgoing) Cancel(answer func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cancel == nil || o.publishing || o.status == statusCancelling {
		return
	}
	o.set(statusCancelling)
	called(answer)
	o.cancel(errCancelled)
}

// Change applies to the migration that is under way, if there is one, those settings that can change during a
// migration: the bandwidth limit, and whether pages of zeros count as written. All others apply to the next migration.
func (o *Outgoing) Change(s Settings) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cancel == nil || o.publishing {
		return
	}
	if !o.unlimited {
		o.limit.Set(s.bandwidth())
	}
	o.stats.writeZeros = s.ZeroPages == "none"
}

// Active reports whether a migration is under way.
func (o *Outgoing) Active() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cancel != nil
}

// Wait waits until no migration is under way.
func (o *Outgoing) Wait() {
	o.mu.Lock()
	done := o.done
	o.mu.Unlock()
	if done != nil {
		<-done
	}
}

// Info is the answer to query-migrate; its Status is empty if there has been no migration.
func (o *Outgoing) Info() Info {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := Info{Status: o.status}
	switch o.status {
	case StatusActive, statusPaused, statusDevice, StatusCompleted:
		o.stats.fill(&i, time.Now())
	case StatusFailed:
		i.Error = o.failure
	}
	return i
}

// report describes the migration that has ended; the caller holds o.mu.
func (o *Outgoing) report(err error) Report {
	r := Report{Engine: "ramjet", Why: o.Why, File: o.file, Took: o.stats.ended.Sub(o.stats.begun), Err: err}
	if err == nil {
		r.Bytes = o.stats.ram(true, o.stats.ended).Transferred
		if !o.stats.stopped.IsZero() {
			r.Pause = o.stats.ended.Sub(o.stats.stopped)
		}
	}
	return r
}
