// SPDX-License-Identifier: Apache-2.0

// Command bench measures Ramjet against QEMU and the disk, on the machine and the file system where it stands.
//
// All that is compared runs in turn, round after round, because disks vary from minute to minute; what
// counts are medians and ratios of one run. A guest's first save is another thing than a later one (QEMU's reading
// touches pages that the guest never did), so the two are different rows, and each first save has
// a guest of its own.
package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// QuickMemory, and QuickFill in MiB, are of a guest that shows in a minute, with Quick, that every kind of row can still be measured. What that
// says of speed is worth little.
const (
	QuickMemory = "1G"
	QuickFill   = 256
)

// Config says what to measure.
type Config struct {
	Program string // ramjet
	Dir     string // on the file system to be measured
	Memory  string // of the guest, as -m takes it
	Fill    int    // MiB of it in use
	Rounds  int
	Quick   bool         // fewer sizes and numbers of channels
	Only    []string     // names of rows, or beginnings of them; nil: all
	Log     func(string) // what is being done, for people
}

// Sample is one run of one row. Times are in seconds, sizes in bytes; what was not measured is zero.
type Sample struct {
	Pause   float64 `json:"pause,omitempty"`   // guest not running
	Total   float64 `json:"total"`             // until the last byte was handed to the kernel, or read; for instant restore until the guest runs
	Durable float64 `json:"durable,omitempty"` // until published and synced
	Load    float64 `json:"load,omitempty"`    // of Total, from QEMU's greeting on: what a restore itself takes
	Bytes   int64   `json:"bytes"`             // page data stored, or read; 0 for a restore that only maps it
	CPU     float64 `json:"cpu"`               // processor seconds of whoever did the work
	Memory  int64   `json:"memory,omitempty"`  // peak resident size of a program of its own
	Pss     int64   `json:"pss,omitempty"`     // of one clone: its own memory and its share of what it shares
	Cache   int64   `json:"cache"`             // of the image in the page cache afterwards
}

// Rate is in bytes a second.
func (s Sample) Rate() float64 {
	if s.Total == 0 {
		return 0
	}
	return float64(s.Bytes) / s.Total
}

// LoadRate is Rate without QEMU's start, where there was one.
func (s Sample) LoadRate() float64 {
	if s.Load > 0 {
		s.Total = s.Load
	}
	return s.Rate()
}

// Work is processor seconds for each GiB moved.
func (s Sample) Work() float64 {
	if s.Bytes == 0 {
		return 0
	}
	return s.CPU / (float64(s.Bytes) / (1 << 30))
}

// measure makes one sample.
type measure func(context.Context, *bench) (Sample, error)

// Row is one thing measured.
type Row struct {
	Name    string   `json:"name"`
	Group   string   `json:"group"` // rows of one group compare, see reference
	What    string   `json:"what"`
	Samples []Sample `json:"samples"`
	Error   string   `json:"error,omitempty"` // why there are no more samples

	run measure
}

// Report is a whole run.
type Report struct {
	Date    time.Time         `json:"date"`
	Machine map[string]string `json:"machine"`
	Config  map[string]string `json:"config"`
	Rows    []*Row            `json:"rows"`
	Ratios  []Ratio           `json:"ratios"`  // of rows, and what they have to be
	Seconds float64           `json:"seconds"` // the run took
}

// Run measures all rows.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := vm.Available(); err != nil {
		return nil, fmt.Errorf("no guest can be started to measure with: %w", err)
	}
	began := time.Now()
	b, err := newBench(c)
	if err != nil {
		return nil, err
	}
	defer b.close()
	r := &Report{Date: began.UTC(), Machine: machine(b.dir), Config: map[string]string{
		"memory": c.Memory, "fill": fmt.Sprintf("%d MiB", c.Fill), "rounds": fmt.Sprint(c.Rounds),
	}}
	for _, row := range b.rows() {
		if c.wants(row.Name) {
			r.Rows = append(r.Rows, row)
		}
	}
	if err := b.measureStored(ctx); err != nil {
		return nil, err
	}
	for b.round = 1; b.round <= c.Rounds; b.round++ {
		if err := b.measure(ctx, r.Rows); err != nil {
			return r, err
		}
	}
	r.Ratios, r.Seconds = r.ratios(), time.Since(began).Seconds()
	return r, nil
}

// measure makes one round.
func (b *bench) measure(ctx context.Context, rows []*Row) error {
	for _, row := range rows {
		if row.Error != "" {
			continue
		}
		b.still()
		began := time.Now()
		s, err := row.run(ctx, b)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.log("round %d of %d: %s: %.3f s, %.1f s with all that it takes to measure", b.round, b.Rounds, row.Name, s.Total, time.Since(began).Seconds())
		if err != nil {
			row.Error = err.Error()
			b.log("%s: %v", row.Name, err)
			continue
		}
		row.Samples = append(row.Samples, s)
	}
	return nil
}

func (c Config) wants(name string) bool {
	for _, o := range c.Only {
		if strings.HasPrefix(name, o) {
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
