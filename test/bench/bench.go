// SPDX-License-Identifier: Apache-2.0

// Package bench measures Ramjet against QEMU and the disk, on the machine and the file system where it stands.
//
// All that is compared runs in turn, round after round, because disks vary from minute to minute; what
// counts are medians and ratios of one run. A guest's first save is another thing than a later one (QEMU's reading
// touches pages that the guest never did), so the two are different rows, and each first save has
// a guest of its own.
package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// Config says what to measure.
type Config struct {
	Program string // ramjet
	Dir     string // on the file system to be measured
	Memory  string // of the guest, as -m takes it
	Fill    int    // MiB of it in use
	Rounds  int
	Only    []string     // names of rows, or beginnings of them; nil: all
	Log     func(string) // what is being done, for people
}

// Sample is one run of one row. Times are in seconds, sizes in bytes; what was not measured is zero.
type Sample struct {
	Pause   float64 `json:"pause,omitempty"`   // guest not running
	Total   float64 `json:"total"`             // until the last byte was handed to the kernel, or read; for instant restore until the guest runs
	Durable float64 `json:"durable,omitempty"` // until published and synced
	Bytes   int64   `json:"bytes"`             // page data moved
	CPU     float64 `json:"cpu"`               // processor seconds of whoever did the work
	Memory  int64   `json:"memory,omitempty"`  // peak resident size of a program of its own
	Cache   int64   `json:"cache"`             // of the image in the page cache afterwards
}

// Rate is in bytes a second.
func (s Sample) Rate() float64 {
	if s.Total == 0 {
		return 0
	}
	return float64(s.Bytes) / s.Total
}

// Row is one thing measured.
type Row struct {
	Name    string   `json:"name"`
	Group   string   `json:"group"` // save, load: rows that compare
	What    string   `json:"what"`
	Samples []Sample `json:"samples"`
	Error   string   `json:"error,omitempty"` // why there are no more samples

	run func(context.Context, *bench) (Sample, error)
}

// Report is a whole run.
type Report struct {
	Date    time.Time         `json:"date"`
	Machine map[string]string `json:"machine"`
	Config  map[string]string `json:"config"`
	Rows    []*Row            `json:"rows"`
}

// bench is a run under way. Its guests come and go with the rows that need them.
type bench struct {
	Config
	image  string // what is written, and removed before it is written again
	stored int64  // page bytes of a save, which is what the plain loop writes too
	used   map[vm.Backend]*vm.VM
	sizes  map[string]*vm.VM
}

// Run measures all rows.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := vm.Available(); err != nil {
		return nil, fmt.Errorf("no guest can be started to measure with: %w", err)
	}
	dir, err := os.MkdirTemp(c.Dir, "ramjet-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{Config: c, image: filepath.Join(dir, "image"), used: map[vm.Backend]*vm.VM{}, sizes: map[string]*vm.VM{}}
	defer b.killAll()
	r := &Report{Date: time.Now().UTC(), Machine: machine(dir), Config: map[string]string{
		"memory": c.Memory, "fill": fmt.Sprintf("%d MiB", c.Fill), "rounds": fmt.Sprint(c.Rounds),
	}}
	for _, row := range rows() {
		if c.wants(row.Name) {
			r.Rows = append(r.Rows, row)
		}
	}
	if err := b.measureStored(ctx); err != nil {
		return nil, err
	}
	for round := range c.Rounds {
		for _, row := range r.Rows {
			if row.Error != "" {
				continue
			}
			b.log("round %d of %d: %s", round+1, c.Rounds, row.Name)
			s, err := row.run(ctx, b)
			if ctx.Err() != nil {
				return r, context.Cause(ctx)
			}
			if err != nil {
				row.Error = err.Error()
				b.log("%s: %v", row.Name, err)
				continue
			}
			row.Samples = append(row.Samples, s)
		}
	}
	return r, nil
}

func (c Config) wants(name string) bool {
	for _, o := range c.Only {
		if len(name) >= len(o) && name[:len(o)] == o {
			return true
		}
	}
	return len(c.Only) == 0
}

func (b *bench) log(format string, args ...any) {
	if b.Log != nil {
		b.Log(fmt.Sprintf(format, args...))
	}
}

// fresh starts a guest that nobody has saved yet.
func (b *bench) fresh(ctx context.Context, backend vm.Backend) (*vm.VM, error) {
	return vm.Start(ctx, vm.Config{Memory: b.Memory, Fill: b.Fill, Backend: backend})
}

// guest is one that has been saved before, kept from round to round.
func (b *bench) guest(ctx context.Context, backend vm.Backend) (*vm.VM, error) {
	if v := b.used[backend]; v != nil {
		return v, nil
	}
	v, err := b.fresh(ctx, backend)
	if err != nil {
		return nil, err
	}
	b.used[backend] = v
	return v, nil
}

func (b *bench) killAll() {
	for _, v := range b.used {
		v.Kill()
	}
	for _, v := range b.sizes {
		v.Kill()
	}
}

// measureStored learns how many bytes a save of such a guest stores.
func (b *bench) measureStored(ctx context.Context) error {
	v, err := b.guest(ctx, vm.Memfd)
	if err != nil {
		return err
	}
	r, _, err := b.ramjetSave(ctx, v)
	if err == nil {
		b.stored = r.BytesStored
	}
	return err
}
