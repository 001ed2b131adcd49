// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/transfer"
)

// The states that a migration to or from a file can have (MigrationStatus).
const (
	StatusSetup      = "setup"
	StatusActive     = "active"
	statusPaused     = "pre-switchover"
	statusDevice     = "device"
	StatusCompleted  = "completed"
	StatusFailed     = "failed"
	statusCancelling = "cancelling"
	StatusCancelled  = "cancelled"
)

// Info is what query-migrate answers (MigrationInfo). Times are in milliseconds.
type Info struct {
	Status           string   `json:"status,omitempty"`
	TotalTime        *int64   `json:"total-time,omitempty"`
	SetupTime        *int64   `json:"setup-time,omitempty"`
	ExpectedDowntime *int64   `json:"expected-downtime,omitempty"`
	Downtime         *int64   `json:"downtime,omitempty"`
	RAM              *RAMInfo `json:"ram,omitempty"`
	Error            string   `json:"error-desc,omitempty"`
}

// RAMInfo is the statistics of memory (MigrationStats), sizes in bytes.
type RAMInfo struct {
	Transferred      int64   `json:"transferred"`
	Remaining        int64   `json:"remaining"`
	Total            int64   `json:"total"`
	Duplicate        int64   `json:"duplicate"` // pages of zeros
	Normal           int64   `json:"normal"`    // pages written
	NormalBytes      int64   `json:"normal-bytes"`
	DirtyPagesRate   int64   `json:"dirty-pages-rate"`
	Mbps             float64 `json:"mbps"` // megabits a second
	DirtySyncCount   int     `json:"dirty-sync-count"`
	PostcopyRequests int64   `json:"postcopy-requests"`
	PageSize         int64   `json:"page-size"`
	MultifdBytes     int64   `json:"multifd-bytes"`
	PagesPerSecond   int64   `json:"pages-per-second"`
	PrecopyBytes     int64   `json:"precopy-bytes"`
	DowntimeBytes    int64   `json:"downtime-bytes"`
	PostcopyBytes    int64   `json:"postcopy-bytes"`
	MissedZeroCopy   int64   `json:"dirty-sync-missed-zero-copy"`
}

// statistics are times and counts of one migration.
type statistics struct {
	begun, active, stopped, ended time.Time
	passes                        int
	multifd                       bool
	writeZeros                    bool // zero pages count as written
	engine                        *transfer.Progress
	total                         int64
	rest                          int64 // bytes written that are not pages
}

// fill adds the statistics to an answer of this status.
func (s *statistics) fill(i *Info, now time.Time) {
	ms := func(from, to time.Time) *int64 { return ptr(to.Sub(from).Milliseconds()) }
	if !s.ended.IsZero() {
		now = s.ended
	}
	if i.Status == StatusCompleted {
		i.Downtime = ptr(int64(0))
		if !s.stopped.IsZero() {
			i.Downtime = ms(s.stopped, now)
		}
	} else {
		i.ExpectedDowntime = ptr(int64(300))
	}
	i.TotalTime, i.SetupTime = ms(s.begun, now), ms(s.begun, s.active)
	i.RAM = s.ram(i.Status == StatusCompleted, now)
}

func (s *statistics) ram(completed bool, now time.Time) *RAMInfo {
	const page = 4096
	r := &RAMInfo{Total: s.total, PageSize: page, DirtySyncCount: s.passes, Transferred: s.rest}
	var passed int64
	if s.engine != nil {
		passed = s.engine.Passed.Load()
		r.Normal = s.engine.Stored.Load()
		r.NormalBytes = r.Normal * page
		r.Duplicate = max(0, passed/page-r.Normal)
		r.Transferred += s.engine.Bytes.Load()
		if s.multifd {
			r.MultifdBytes = s.engine.Bytes.Load()
		}
	}
	if completed && s.writeZeros {
		r.Normal, r.NormalBytes, r.Duplicate = s.total/page, s.total, 0
	}
	r.PrecopyBytes = r.Transferred - r.MultifdBytes
	if !completed {
		r.Remaining = max(0, s.total-passed)
	}
	if d := now.Sub(s.active).Seconds(); d > 0 {
		r.Mbps = float64(r.Transferred) * 8 / 1e6 / d
		r.PagesPerSecond = int64(float64(passed/page) / d)
	}
	return r
}

// Report describes a migration that has ended, for a log.
type Report struct {
	Incoming bool
	Engine   string        // ramjet or qemu
	Why      string        // the reason for that engine
	File     string        // the file's path; for another transport its name and a colon
	Bytes    int64         // of the image; 0: not known
	Took     time.Duration // from the command to the end
	Pause    time.Duration // of an outgoing migration that completed: how long the guest had been stopped by then
	Err      error         // nil: it completed
}

// OneLine is the text of an error, joined errors on one line.
func OneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
