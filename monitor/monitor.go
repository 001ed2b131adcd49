// SPDX-License-Identifier: Apache-2.0

// Package monitor is the monitor of a guest that is only memory ([NewMemory], `ramjet serve --memory`): QEMU's commands
// for descriptor sets, memory backends and migration to and from files, with QEMU 10's texts, events and order of
// events. Package migration does the migrations, and says what they promise.
//
// No command opens a path unless that was allowed (Options.Paths): all data goes through descriptors that the client
// has passed.
package monitor

import (
	"context"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// Monitor is the monitor of a guest that is only memory.
type Monitor struct {
	opts  Options
	emit  func(event string, data any)
	sets  fdset.Sets
	named map[string]*os.File // getfd

	memory *Memory
	out    *migration.Outgoing
	in     incoming

	mu       sync.Mutex // guards what is below
	state    runState
	settings settings
}

// Options are the options of a Monitor.
type Options struct {
	// Emit sends an event to all clients; data may be nil.
	Emit func(event string, data any)
	// Quit is called after the command quit has been answered, or with the error of an incoming migration whose
	// failure is to end the process.
	Quit func(error)
	// Log, if not nil, is given a report of each migration that has ended.
	Log func(migration.Report)
	// Paths allows migration to and from files by their names, not only by descriptor sets.
	Paths bool
	// Incoming starts the guest waiting for migrate-incoming.
	Incoming bool
}

// New makes the monitor of a guest.
func New(m *Memory, o Options) *Monitor {
	mon := &Monitor{opts: o, emit: o.Emit, memory: m, named: map[string]*os.File{}, settings: defaultSettings()}
	mon.state = runState{name: "running", autostart: true}
	if o.Incoming {
		mon.state.name = "inmigrate"
	}
	mon.out = &migration.Outgoing{Guest: guest{mon}, Files: migration.Files{Sets: &mon.sets, Paths: o.Paths}, Emit: o.Emit,
		Log: o.Log, Why: "this guest is only memory"}
	return mon
}

// Commands are the monitor's commands, by name.
func (m *Monitor) Commands() map[string]qmp.Command {
	c := map[string]qmp.Command{
		"quit":         {Run: m.quit},
		"query-name":   {Run: queryName},
		"query-uuid":   {Run: queryUUID},
		"stop":         {Run: m.stop},
		"cont":         {Run: m.cont},
		"getfd":        {Run: m.getFD},
		"closefd":      {Run: m.closeFD},
		"qom-list":     {Run: m.qomList},
		"object-add":   {Run: m.objectAdd},
		"object-del":   {Run: m.objectDel},
		"query-yank":   {Run: queryYank, OOB: true},
		"migrate":      {Run: m.migrate},
		"add-fd":       {Run: m.addFD},
		"remove-fd":    {Run: m.removeFD},
		"query-fdsets": {Run: m.queryFDSets},

		"query-status":               {Run: m.queryStatus},
		"query-migrate":              {Run: m.queryMigrate},
		"query-migrate-capabilities": {Run: m.queryCapabilities},
		"query-migrate-parameters":   {Run: m.queryParameters},
		"migrate-set-capabilities":   {Run: m.setCapabilities},
		"migrate-set-parameters":     {Run: m.setParameters},
		"migrate_cancel":             {Run: m.migrateCancel},
		"migrate-continue":           {Run: m.migrateContinue},
		"migrate-pause":              {Run: migratePause, OOB: true},
		"migrate-incoming":           {Run: m.migrateIncoming},
	}
	c["query-commands"] = qmp.Command{Run: func(_ context.Context, r *qmp.Request) (any, error) {
		if err := r.Args(nil); err != nil {
			return nil, err
		}
		type entry struct {
			Name string `json:"name"`
		}
		list := []entry{{"qmp_capabilities"}, {"query-version"}}
		for _, name := range slices.Sorted(maps.Keys(c)) {
			list = append(list, entry{name})
		}
		return list, nil
	}}
	return c
}

// Close cancels a migration that is under way, and closes all descriptors and the memory. No command may run then or
// later.
func (m *Monitor) Close() error {
	m.out.Cancel(nil)
	m.out.Wait()
	m.in.wait()
	for _, f := range m.named {
		f.Close()
	}
	m.sets.Close()
	return m.memory.Close()
}

func (m *Monitor) quit(_ context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	m.emit("SHUTDOWN", map[string]any{"guest": false, "reason": "host-qmp-quit"})
	r.AfterReply(func() { m.opts.Quit(nil) })
	return nil, nil
}

func queryName(_ context.Context, r *qmp.Request) (any, error) { return nil, r.Args(nil) }

func queryUUID(_ context.Context, r *qmp.Request) (any, error) {
	return map[string]string{"UUID": "00000000-0000-0000-0000-000000000000"}, r.Args(nil)
}

func queryYank(_ context.Context, r *qmp.Request) (any, error) { return []struct{}{}, r.Args(nil) }
