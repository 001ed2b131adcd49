// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// migrateIncoming opens the file and starts a load. The load begins after the command has been answered: QEMU loads
// when its main loop goes on (file_start_incoming_migration).
func (m *Monitor) migrateIncoming(_ context.Context, r *qmp.Request) (any, error) {
	var args migration.IncomingArgs
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	m.mu.Lock()
	waiting := m.state.name == "inmigrate"
	m.mu.Unlock()
	switch {
	case !m.opts.Incoming:
		return nil, qmp.Errorf("'-incoming' was not specified on the command line")
	case m.in.started() || !waiting:
		return nil, qmp.Errorf("The incoming migration has already been started")
	}
	a, err := migration.Target{URI: args.URI, Channels: args.Channels}.Address(true)
	if err != nil {
		return nil, err
	}
	s := m.current()
	if err := s.Suits(a); err != nil {
		return nil, err
	}
	file, err := m.out.Files.OpenIncoming(a, s)
	if err != nil {
		return nil, err // the command can be given again, unlike QEMU's
	}
	ctx, end := m.in.begin()
	m.setIncoming(s, migration.StatusSetup, nil)
	r.HoldEvents()
	m.setIncoming(s, migration.StatusActive, nil)
	go func() {
		defer end()
		m.loadAndReport(ctx, file, args.ExitOnError == nil || *args.ExitOnError)
	}()
	return nil, nil
}

// loadAndReport loads file, and sets and logs the result. With exit a failure ends the process.
func (m *Monitor) loadAndReport(ctx context.Context, file *migration.Incoming, exit bool) {
	began := time.Now()
	err := m.load(ctx, file)
	if m.opts.Log != nil {
		m.opts.Log(migration.Report{Incoming: true, Engine: "ramjet", Why: m.out.Why, File: file.Address.File(), Took: time.Since(began), Err: err})
	}
	if err == nil {
		return
	}
	err = fmt.Errorf("load of migration failed: %w", err)
	m.setIncoming(file.Settings, migration.StatusFailed, err)
	if exit && ctx.Err() == nil {
		m.opts.Quit(err)
	}
}

// load loads the memory and takes over the run state. If it fails, the guest still waits.
func (m *Monitor) load(ctx context.Context, file *migration.Incoming) (err error) {
	defer file.Close()
	view, err := m.memory.view(guestmem.ReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	load := loadPlain
	if file.Settings.MappedRAM {
		load = loadMapped
	}
	state, err := load(ctx, file, view)
	if err != nil {
		return err
	}
	m.mu.Lock()
	if state == "running" && m.state.autostart {
		m.setRunning(true, "running")
	} else {
		m.state.name = "paused"
	}
	m.mu.Unlock()
	// QEMU reports completion after the run state (process_incoming_migration_bh).
	m.setIncoming(file.Settings, migration.StatusCompleted, nil)
	return nil
}

// loadPlain loads a plain stream and returns the run state in it.
func loadPlain(ctx context.Context, file *migration.Incoming, view *migration.View) (string, error) {
	sections, err := file.LoadPlain(ctx, view, sectionSizes)
	if err != nil {
		return "", err
	}
	return loadSections(sections)
}

// loadMapped loads a mapped-ram image and returns the run state in it.
func loadMapped(ctx context.Context, file *migration.Incoming, view *migration.View) (string, error) {
	if err := file.OpenImage(machineType); err != nil {
		return "", err
	}
	sections, err := file.Image.DeviceSections()
	if err != nil {
		return "", err
	}
	state, err := loadSections(sections)
	if err != nil {
		return "", err
	}
	for _, b := range file.Image.Blocks {
		if view.Find(b.Name) < 0 {
			return "", migration.UnknownBlock(b.Name)
		}
	}
	if n := len(file.Image.Blocks); n != len(view.Blocks) {
		return "", fmt.Errorf("the image has %d pieces of memory, this guest has %d", n, len(view.Blocks))
	}
	return state, file.LoadPages(ctx, view, true)
}

// incoming is the state of migration into the guest: setup, active, completed or failed. Unlike in QEMU it can be tried
// again when it has failed. All methods may be called by any goroutine.
type incoming struct {
	mu      sync.Mutex
	status  string
	failure string
	cancel  context.CancelFunc
	done    chan struct{}
}

// begin prepares for a load, whose context wait cancels. end must be called when the load has ended.
func (in *incoming) begin() (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cancel, in.done = cancel, done
	return ctx, func() {
		cancel()
		close(done)
	}
}

// started reports whether a load has begun and not failed.
func (in *incoming) started() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.status != "" && in.status != migration.StatusFailed
}

// loading reports whether a load is under way.
func (in *incoming) loading() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.status == migration.StatusSetup || in.status == migration.StatusActive
}

func (in *incoming) info() migration.Info {
	in.mu.Lock()
	defer in.mu.Unlock()
	return migration.Info{Status: in.status, Error: in.failure}
}

// wait cancels a load that is under way and waits for its end.
func (in *incoming) wait() {
	in.mu.Lock()
	cancel, done := in.cancel, in.done
	in.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// setIncoming sets the status of the load, and emits the event if the settings ask for it.
func (m *Monitor) setIncoming(s migration.Settings, status string, err error) {
	m.in.mu.Lock()
	defer m.in.mu.Unlock()
	m.in.status, m.in.failure = status, ""
	if err != nil {
		m.in.failure = migration.OneLine(err)
	}
	if s.Events {
		m.emit("MIGRATION", map[string]string{"status": status})
	}
}
