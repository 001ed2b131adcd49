// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Migration is how QEMU is to write a file by itself.
type Migration struct {
	Channels     int   // with multifd; 0: without
	Direct       bool  // needs Channels
	MaxBandwidth int64 // bytes a second; 0: no limit
	// Switchover, if not nil, is asked when QEMU has stopped the guest, which it does itself, and before it completes
	// the file. An error ends the migration, and the guest goes on; only without Channels, see Hurry.
	Switchover func() error
}

// Command is a monitor command to be executed later.
type Command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
}

// Execute executes commands until one fails.
func (vm *VM) Execute(ctx context.Context, commands []Command) error {
	for _, c := range commands {
		if err := vm.QMP.Execute(ctx, c.Execute, c.Arguments, nil); err != nil {
			return fmt.Errorf("%s: %w", c.Execute, err)
		}
	}
	return nil
}

// MigratedRAM is what QEMU tells of its progress, in bytes.
type MigratedRAM struct {
	Total, Remaining, Transferred int64
	Rounds                        int64 `json:"dirty-sync-count"` // over all of memory, so far
}

// Hurry are the commands that bring a migration to its end soon.
//
// With channels it is not cancelled: that is the end of QEMU 10.0.2 in one of twenty cases (a channel's thread uses
// what has been freed), with none of 600 without channels. It goes on without a limit instead; what it writes is
// nobody's any more.
func (m Migration) Hurry() []Command {
	if m.Channels > 0 {
		return []Command{{"migrate-set-parameters", map[string]any{"max-bandwidth": 0}}}
	}
	return []Command{{Execute: "migrate_cancel"}}
}

// Migrate has QEMU migrate to uri and waits for the end. When ctx ends first it comes soon (Migration.Hurry), and
// Migrate returns then.
func (vm *VM) Migrate(ctx context.Context, m Migration, uri string, observe func(context.Context, MigratedRAM) error) error {
	if err := vm.QMP.Execute(ctx, "migrate", map[string]any{"uri": uri}, nil); err != nil {
		return fmt.Errorf("QEMU does not start to save: %w", err)
	}
	monitor := context.WithoutCancel(ctx)
	hurried, switched := false, false
	var refused, err error // by m.Switchover
	for {
		var now struct {
			migrationInfo
			RAM MigratedRAM
		}
		if err := vm.QMP.Execute(monitor, "query-migrate", nil, &now); err != nil {
			return err
		}
		if err := observe(monitor, now.RAM); err != nil {
			return err
		}
		switch now.Status {
		case "completed":
			return context.Cause(ctx)
		case "pre-switchover":
			if !switched && !hurried {
				switched = true
				if refused = m.Switchover(); refused == nil {
					err = vm.QMP.Execute(monitor, "migrate-continue", map[string]any{"state": "pre-switchover"}, nil)
				} else {
					err = vm.Execute(monitor, m.Hurry())
				}
				if err != nil {
					return err
				}
			}
		case "cancelled":
			switch {
			case refused != nil:
				return refused
			case hurried:
				return context.Cause(ctx)
			}
			return errors.New("somebody cancelled the migration to the file")
		case "failed":
			return fmt.Errorf("QEMU could not save: %s", now.Error)
		}
		if ctx.Err() != nil && !hurried {
			hurried = true
			if err = vm.Execute(monitor, m.Hurry()); err != nil {
				return err
			}
		}
		wait := 5 * time.Millisecond
		if m.Switchover != nil {
			wait = time.Millisecond // the guest stands still until the answer
		}
		time.Sleep(wait)
	}
}

// MigrationOver waits until QEMU has cleaned up after a migration, of whatever end. It says that a migration has failed
// before its channels' threads are gone, and takes settings then; one without multifd makes it forget the threads, and
// crash (seen on 10.0.2: a fault in the main thread, once in some hundred migrations that were cancelled).
func (vm *VM) MigrationOver(ctx context.Context) error {
	for {
		var instances json.RawMessage
		if err := vm.QMP.Execute(ctx, "query-yank", nil, &instances); err != nil {
			return err
		}
		if !migrating(instances) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// migrating looks at the answer to query-yank: what can be pulled out of a migration that hangs is there until the end
// of migrate_fd_cleanup.
func migrating(instances []byte) bool {
	var list []struct{ Type string }
	_ = json.Unmarshal(instances, &list)
	for _, i := range list {
		if i.Type == "migration" {
			return true
		}
	}
	return false
}
