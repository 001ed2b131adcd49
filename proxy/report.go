// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"time"

	"github.com/ramjet-vm/ramjet/migration"
)

// pollInterval is the time between two queries, for the log, whether QEMU's own migration has ended.
const pollInterval = 200 * time.Millisecond

// follow waits for the end of a migration that QEMU does itself, and logs it.
func (p *Proxy) follow(r migration.Report) {
	if p.log == nil {
		return
	}
	began := time.Now()
	for {
		var m struct {
			Status   string
			Error    string `json:"error-desc"`
			Downtime int64
			RAM      struct{ Transferred int64 }
		}
		if p.vm.QMP.Execute(context.Background(), "query-migrate", nil, &m) != nil {
			return // QEMU is gone, and the result unknown
		}
		switch m.Status {
		case "completed":
			r.Bytes, r.Pause = m.RAM.Transferred, time.Duration(m.Downtime)*time.Millisecond
		case "failed", "cancelled":
			r.Err = errors.New(m.Status)
			if m.Error != "" {
				r.Err = errors.New(m.Error)
			}
		default:
			time.Sleep(pollInterval)
			continue
		}
		r.Took = time.Since(began)
		p.log(r)
		return
	}
}
