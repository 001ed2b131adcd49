// SPDX-License-Identifier: Apache-2.0

package save

import (
	"slices"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/seal"
)

// Result is what `ramjet save --json` prints. Times are in seconds, sizes in bytes.
type Result struct {
	Image          string  `json:"image"`
	ID             string  `json:"id"`
	Engine         Engine  `json:"engine"`
	IO             string  `json:"io"`     // direct or buffered
	IOWhy          string  `json:"io_why"` // half a sentence, for people
	Channels       int     `json:"channels"`
	PagesTotal     int64   `json:"pages_total"`
	PagesStored    int64   `json:"pages_stored"`
	PagesZero      int64   `json:"pages_zero"` // zero, or never touched; in a diff those that are so and are not in the base
	BytesStored    int64   `json:"bytes_stored"`
	BytesLogical   int64   `json:"bytes_logical"`
	PauseSeconds   float64 `json:"pause_seconds"`   // from stop to cont; 0 if the VM was paused before
	SaveSeconds    float64 `json:"save_seconds"`    // start to the last byte handed to the kernel
	DurableSeconds float64 `json:"durable_seconds"` // start to published
	BytesPerSecond float64 `json:"bytes_per_second"`
	Passes         []Pass  `json:"passes,omitempty"`  // while the guest ran, with Live
	GaveUp         bool    `json:"gave_up,omitempty"` // with Live: the guest was faster, and much was left for the pause
	// NotRestorable says why Ramjet cannot restore the image, which QEMU can load; empty if it can.
	NotRestorable string  `json:"not_restorable,omitempty"`
	Base          *string `json:"base"` // the image that a diff builds on
	// Differs says what of the VM is not as its command line says: disks, devices. Half a sentence each.
	Differs []string `json:"differs"`
	// Times says where DurableSeconds went.
	Times Times `json:"times"`
}

// Times says where the time of a save went, in seconds. Attach, DeviceState, Memory, Complete, Sync and Publish come one
// after the other (in a live save, memory before device state too); together they are DurableSeconds but for a little. Scan
// and Write are parts of Memory, the mean of its channels: what is missing there is waiting for work, or for other channels.
type Times struct {
	Attach      float64 `json:"attach_seconds"`       // learning about the VM, and all that is checked before it is touched
	DeviceState float64 `json:"device_state_seconds"` // QEMU writes its devices' state; with its own engine a part of Memory
	Memory      float64 `json:"memory_seconds"`
	Scan        float64 `json:"scan_seconds"`     // reading, comparing and summing pages; 0 with QEMU's engine
	Write       float64 `json:"write_seconds"`    // writing them, which with direct I/O is waiting for the device; 0 with QEMU's engine
	Complete    float64 `json:"complete_seconds"` // headers, bitmaps, device state and seal
	Sync        float64 `json:"sync_seconds"`     // waiting for the device to have all of it
	Publish     float64 `json:"publish_seconds"`  // giving the image its name, durably
}

// copied is what is known of an image once it is complete, and what making it took.
type copied struct {
	id            seal.ID
	metadata      *seal.Metadata
	holes         int64     // pages that the seal counts as stored and that are holes: zero in a diff, and not in its base
	written       time.Time // when the last byte was handed to the kernel
	io, ioWhy     string    // as in Result
	channels      int
	passes        []Pass
	gaveUp        bool
	notRestorable string
	differs       []string
	times         Times // a copier fills in DeviceState, Memory, Scan and Write
}

// nothing reports whether no page is stored.
func (c *copied) nothing() bool {
	return !slices.ContainsFunc(c.metadata.Blocks, func(b seal.Block) bool { return b.PagesStored > 0 })
}

// result is the result of a save with these options against base, but for what is known only when the image is published.
func (c *copied) result(o *Options, base *base) *Result {
	r := &Result{
		Image: o.Image, ID: c.id.String(), Engine: o.Engine, IO: c.io, IOWhy: c.ioWhy, Channels: c.channels,
		SaveSeconds: c.written.Sub(o.Began).Seconds(), Passes: c.passes, GaveUp: c.gaveUp, NotRestorable: c.notRestorable,
		Differs: append([]string{}, c.differs...), Times: c.times,
	}
	for _, b := range c.metadata.Blocks {
		r.PagesTotal += b.Length / b.PageSize
		r.PagesStored += b.PagesStored
		r.BytesLogical += b.Length
	}
	r.PagesZero = r.PagesTotal - r.PagesStored
	if base != nil {
		r.Base, r.PagesZero = &base.file.Path, c.holes
	}
	r.PagesStored -= c.holes
	r.BytesStored = r.PagesStored * directio.PageSize
	if r.SaveSeconds > 0 {
		r.BytesPerSecond = float64(r.BytesStored) / r.SaveSeconds
	}
	return r
}
