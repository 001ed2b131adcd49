// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// migrated waits for the end of a migration in QEMU, either way.
func migrated(ctx context.Context, c *qmp.Client, events <-chan qmp.Event) (bytes int64, err error) {
	for {
		var m struct {
			Status string
			Error  string `json:"error-desc"`
			RAM    struct {
				Normal int64 `json:"normal-bytes"`
			}
		}
		if err := c.Execute(ctx, "query-migrate", nil, &m); err != nil {
			return 0, err
		}
		switch m.Status {
		case "completed":
			return m.RAM.Normal, nil
		case "failed", "cancelled":
			return 0, errors.New(m.Error)
		}
		select {
		case <-events:
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// setMigration is the configuration with which QEMU is fastest, but for the number of channels.
func setMigration(ctx context.Context, c *qmp.Client, channels int, direct bool) error {
	var caps []map[string]any
	for _, name := range []string{"mapped-ram", "multifd", "events"} {
		caps = append(caps, map[string]any{"capability": name, "state": true})
	}
	if err := c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": caps}, nil); err != nil {
		return err
	}
	return c.Execute(ctx, "migrate-set-parameters",
		map[string]any{"multifd-channels": channels, "direct-io": direct, "max-bandwidth": 0}, nil)
}

// qemuSave measures QEMU's own migration to a file of a stopped guest.
func qemuSave(channels int, direct bool) func(context.Context, *bench, *vm.VM) (Sample, error) {
	return func(ctx context.Context, b *bench, v *vm.VM) (s Sample, err error) {
		c, err := qmp.Dial(ctx, v.QMP)
		if err != nil {
			return s, err
		}
		defer c.Close()
		if err := setMigration(ctx, c, channels, direct); err != nil {
			return s, err
		}
		os.Remove(b.image)
		b.settle()
		events, stop := c.Subscribe("MIGRATION")
		defer stop()
		cpu, began := processCPU(v.PID), time.Now()
		if err := c.Execute(ctx, "stop", nil, nil); err != nil {
			return s, err
		}
		if err := c.Execute(ctx, "migrate", map[string]any{"uri": "file:" + b.image}, nil); err != nil {
			return s, err
		}
		if s.Bytes, err = migrated(ctx, c, events); err != nil {
			return s, err
		}
		s.Total, s.CPU = time.Since(began).Seconds(), processCPU(v.PID)-cpu
		if err := resume(ctx, c); err != nil {
			return s, err
		}
		s.Pause = time.Since(began).Seconds()
		s.Cache, err = cached(b.image)
		return s, err
	}
}

// resume lets the guest go on. QEMU refuses that for a moment after it says that a migration is completed
// ("Migration is not finalized yet").
func resume(ctx context.Context, c *qmp.Client) (err error) {
	for range 400 {
		if err = c.Execute(ctx, "cont", nil, nil); err == nil || ctx.Err() != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// qemuLoad measures QEMU's own load until the guest runs.
func qemuLoad(channels int, direct, inCache bool) measure {
	return func(ctx context.Context, b *bench) (s Sample, err error) {
		l, err := b.load(ctx, vm.Anonymous, inCache)
		if err != nil {
			return s, err
		}
		s, err = b.incoming(ctx, l, l.stored, func(c *qmp.Client) error { return loadImage(ctx, c, l.image, channels, direct) })
		if err != nil {
			return s, err
		}
		s.Bytes = l.stored
		s.Cache, err = cached(l.image)
		return s, err
	}
}

// qemuStart measures QEMU alone until its monitor greets: no restore can be done before.
func qemuStart(ctx context.Context, b *bench) (s Sample, err error) {
	l, err := b.load(ctx, vm.Anonymous, false)
	if err != nil {
		return s, err
	}
	return b.incoming(ctx, l, 0, func(*qmp.Client) error { return nil })
}

// incoming starts a QEMU that waits for a load, in which do fills so many bytes of memory, and measures both. The VM is killed then.
func (b *bench) incoming(ctx context.Context, l *load, bytes int64, do func(*qmp.Client) error) (s Sample, err error) {
	dir, err := os.MkdirTemp("", "ramjet-bench-vm-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	memory, err := b.beforeLoad(bytes)
	if err != nil {
		return s, err
	}
	defer memory.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	q := exec.CommandContext(ctx, l.v.Program, append(l.v.ArgsIn(dir), "-incoming", "defer")...)
	var stderr strings.Builder
	q.Stderr = &stderr
	if err := q.Start(); err != nil {
		return s, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(fmt.Errorf("QEMU ended: %w: %s", q.Wait(), strings.TrimSpace(stderr.String())))
	}()
	defer func() { q.Process.Kill(); <-ended }()
	c, err := dialNew(ctx, filepath.Join(dir, filepath.Base(l.v.QMP)))
	if err != nil {
		return s, err
	}
	defer c.Close()
	if err := do(c); err != nil {
		return s, err
	}
	s.Total, s.CPU = time.Since(began).Seconds(), processCPU(q.Process.Pid)
	return s, nil
}

// loadImage has a QEMU that waits for it load an image.
func loadImage(ctx context.Context, c *qmp.Client, image string, channels int, direct bool) error {
	if err := setMigration(ctx, c, channels, direct); err != nil {
		return err
	}
	events, stop := c.Subscribe("MIGRATION")
	defer stop()
	if err := c.Execute(ctx, "migrate-incoming", map[string]any{"uri": "file:" + image}, nil); err != nil {
		return err
	}
	_, err := migrated(ctx, c, events)
	return err
}

// dialNew connects as soon as a QEMU that was just started listens.
func dialNew(ctx context.Context, path string) (*qmp.Client, error) {
	for {
		if _, err := os.Stat(path); err == nil {
			if c, err := qmp.Dial(ctx, path); err == nil {
				return c, nil
			}
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("QEMU does not listen at %s: %w", path, context.Cause(ctx))
		}
	}
}
