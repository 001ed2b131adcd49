// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Migration is how QEMU is to write a file by itself.
type Migration struct {
	Channels     int   // with multifd; 0: without
	Direct       bool  // needs Channels
	MaxBandwidth int64 // bytes a second; 0: no limit
}

type capability struct {
	Name  string `json:"capability"`
	State bool   `json:"state"`
}

// SetMigration sets capabilities and parameters, and returns what puts them back as they were. That is never nil.
func (vm *VM) SetMigration(ctx context.Context, m Migration) (restore func() error, err error) {
	var undo []func(context.Context) error
	restore = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i](ctx))
		}
		return errors.Join(errs...)
	}
	var caps []capability
	if err := vm.Monitor.Execute(ctx, "query-migrate-capabilities", nil, &caps); err != nil {
		return restore, err
	}
	want := map[string]bool{"mapped-ram": true, "multifd": m.Channels > 0}
	var change, back []capability
	for _, c := range caps {
		if w, ok := want[c.Name]; ok && w != c.State {
			change, back = append(change, capability{c.Name, w}), append(back, c)
		}
	}
	if len(change) > 0 {
		if err := vm.setCapabilities(ctx, change); err != nil {
			return restore, fmt.Errorf("QEMU does not take the capabilities for saving to a file: %w", err)
		}
		undo = append(undo, func(ctx context.Context) error { return vm.setCapabilities(ctx, back) })
	}
	var old map[string]any
	if err := vm.Monitor.Execute(ctx, "query-migrate-parameters", nil, &old); err != nil {
		return restore, err
	}
	params := map[string]any{"direct-io": m.Direct, "max-bandwidth": m.MaxBandwidth}
	if m.Channels > 0 {
		params["multifd-channels"] = m.Channels
	}
	before := map[string]any{}
	for k := range params {
		before[k] = old[k]
	}
	if err := vm.Monitor.Execute(ctx, "migrate-set-parameters", params, nil); err != nil {
		return restore, fmt.Errorf("QEMU does not take the parameters for saving to a file: %w", err)
	}
	undo = append(undo, func(ctx context.Context) error {
		return vm.Monitor.Execute(ctx, "migrate-set-parameters", before, nil)
	})
	return restore, nil
}

func (vm *VM) setCapabilities(ctx context.Context, caps []capability) error {
	return vm.Monitor.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": caps}, nil)
}

// MigratedRAM is what QEMU tells of its progress, in bytes.
type MigratedRAM struct{ Total, Remaining, Transferred int64 }

// Migrate has QEMU migrate to uri and waits for the end. When ctx ends first the migration is cancelled, and Migrate returns when that
// is done.
func (vm *VM) Migrate(ctx context.Context, uri string, observe func(MigratedRAM)) error {
	if err := vm.Monitor.Execute(ctx, "migrate", map[string]any{"uri": uri}, nil); err != nil {
		return fmt.Errorf("QEMU does not start to save: %w", err)
	}
	monitor := context.WithoutCancel(ctx)
	cancelled := false
	for {
		var m struct {
			migrationInfo
			RAM MigratedRAM
		}
		if err := vm.Monitor.Execute(monitor, "query-migrate", nil, &m); err != nil {
			return err
		}
		observe(m.RAM)
		switch m.Status {
		case "completed":
			return context.Cause(ctx)
		case "cancelled":
			if cancelled {
				return context.Cause(ctx)
			}
			return errors.New("somebody cancelled the migration to the file")
		case "failed":
			return fmt.Errorf("QEMU could not save: %s", m.Error)
		}
		if ctx.Err() != nil && !cancelled {
			cancelled = true
			if err := vm.Monitor.Execute(monitor, "migrate_cancel", nil, nil); err != nil {
				return err
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}
