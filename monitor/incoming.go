// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/transfer"
)

// incoming is migration into the guest. Its states are setup, active, completed and failed; unlike in QEMU it can be
// tried again when it has failed.
type incoming struct {
	mu     sync.Mutex
	status string
	desc   string
	cancel context.CancelFunc
	done   chan struct{}
}

// started tells whether a load has begun and not failed.
func (in *incoming) started() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.status != "" && in.status != statusFailed
}

// loading tells whether a load is under way.
func (in *incoming) loading() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.status == statusSetup || in.status == statusActive
}

func (in *incoming) info() Info {
	in.mu.Lock()
	defer in.mu.Unlock()
	return Info{Status: in.status, Error: in.desc}
}

// wait ends a load that is under way.
func (in *incoming) wait() {
	in.mu.Lock()
	cancel, done := in.cancel, in.done
	in.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// IncomingArgs are the arguments of migrate-incoming.
type IncomingArgs struct {
	URI         *string   `json:"uri"`
	Channels    []Channel `json:"channels,omitempty"`
	ExitOnError *bool     `json:"exit-on-error"`
}

func (m *Monitor) migrateIncoming(_ context.Context, r *qmp.Request) (any, error) {
	var args IncomingArgs
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
	a, err := Target{args.URI, args.Channels}.Address(true)
	if err != nil {
		return nil, err
	}
	s := m.current()
	if err := s.suits(a); err != nil {
		return nil, err
	}
	l := &load{Monitor: m, settings: s, address: a, exit: args.ExitOnError == nil || *args.ExitOnError}
	return nil, l.start(r.HoldEvents)
}

// load is one incoming migration.
type load struct {
	*Monitor
	settings Settings
	address  Address
	exit     bool // end the process if it fails

	opened *Opened
}

// start opens the file, and has the rest go on by itself, behind the answer: QEMU begins to load when its main loop goes on
// (file_start_incoming_migration).
func (l *load) start(answer func()) (err error) {
	s := l.settings
	if l.opened, err = l.out.Files.Open(l.address, fdset.Need{Channels: s.PageChannels(), Direct: s.Direct()}); err != nil {
		return err // as if nobody had asked: unlike QEMU we can be asked again
	}
	l.set(statusSetup, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.in.mu.Lock()
	l.in.cancel, l.in.done = cancel, done
	l.in.mu.Unlock()
	answer()
	l.set(statusActive, nil)
	began := time.Now()
	go func() {
		defer close(done)
		defer cancel()
		err := l.run(ctx)
		if l.opts.Log != nil {
			l.opts.Log(Report{Incoming: true, Engine: "ramjet", Why: l.out.Why, File: l.address.File(), Took: time.Since(began), Err: err})
		}
		if err != nil {
			err = fmt.Errorf("load of migration failed: %w", err)
			l.set(statusFailed, err)
			if l.exit && ctx.Err() == nil {
				l.opts.Quit(err)
			}
		}
	}()
	return nil
}

func (l *load) set(status string, err error) {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.in.status, l.in.desc = status, ""
	if err != nil {
		l.in.desc = oneLine(err)
	}
	if l.settings.Events {
		l.emit("MIGRATION", map[string]string{"status": status})
	}
}

// run loads everything and takes up the run state. The guest has the whole image or still waits.
func (l *load) run(ctx context.Context) (err error) {
	defer l.opened.Close()
	view, err := l.memory.view(guestmem.ReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	how := l.plain
	if l.settings.MappedRAM {
		how = l.mapped
	}
	state, err := how(ctx, view)
	if err != nil {
		return err
	}
	l.takeUp(state)
	return nil
}

// mapped loads a mapped-ram image and returns the run state in it.
func (l *load) mapped(ctx context.Context, view *View) (string, error) {
	image, err := l.openImage()
	if err != nil {
		return "", err
	}
	sections, err := image.DeviceSections()
	if err != nil {
		return "", err
	}
	state, err := loadSections(sections)
	if err != nil {
		return "", err
	}
	return state, l.pages(ctx, image, view)
}

// takeUp has the guest do what it did when it was saved.
func (l *load) takeUp(state string) {
	l.mu.Lock()
	if state == "running" && l.state.autostart {
		l.setRunning(true, "running")
	} else {
		l.state.name = "paused"
	}
	l.mu.Unlock()
	// QEMU says it in this order (process_incoming_migration_bh).
	l.set(statusCompleted, nil)
}

// openImage reads all headers. It reads at offsets, so that the client's descriptor stays where it is.
func (l *load) openImage() (*mappedram.Image, error) {
	f, err := directio.NewFile(l.opened.Main)
	if err != nil {
		return nil, err
	}
	if l.address.Offset > math.MaxInt64 {
		return nil, fmt.Errorf("there is nothing at offset %d", l.address.Offset)
	}
	image, err := OpenImage(f, int64(l.address.Offset))
	if err != nil {
		return nil, err
	}
	if t := image.Config.MachineType; t != machineType {
		return nil, fmt.Errorf("Machine type received is '%s' and local is '%s'", t, machineType)
	}
	return image, nil
}

// pages loads all pages, and makes zero what the image has no page of: an earlier load may have failed half way.
func (l *load) pages(ctx context.Context, image *mappedram.Image, view *View) error {
	load := &transfer.Load{Image: l.opened.Pages, Params: transfer.Params{Channels: max(l.settings.PageChannels(), 1), Direct: l.settings.Direct()}}
	found := 0
	for i, b := range image.Blocks {
		at := view.find(b.Name)
		if at < 0 {
			return unknownBlock(b.Name)
		}
		found++
		if b.Ignored {
			continue
		}
		stored, err := image.Bitmap(i)
		if err != nil {
			return err
		}
		load.Blocks = append(load.Blocks, transfer.LoadBlock{Block: b, Index: i, Stored: stored, Memory: view.Memory[at], Clear: true})
	}
	if found != len(view.Blocks) {
		return fmt.Errorf("the image has %d pieces of memory, this guest has %d", found, len(view.Blocks))
	}
	return load.Run(ctx)
}
