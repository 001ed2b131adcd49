// SPDX-License-Identifier: Apache-2.0

package monitor

import "time"

// Report is what has become of a migration, for a log.
type Report struct {
	Incoming bool
	Engine   string        // ramjet or qemu
	Why      string        // it was that one
	File     string        // or transport, where it is none
	Bytes    int64         // of the image; 0: not known
	Took     time.Duration // from the command to the end
	Pause    time.Duration // of an outgoing one that completed: how long the guest had stood still by then
	Err      error         // nil: it completed
}

// File is an address in a report.
func (a Address) File() string {
	if a.Transport == "file" {
		return a.Path
	}
	return a.Transport + ":"
}

// report makes the report of the migration that has ended, with o.mu held.
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
