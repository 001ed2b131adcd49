// SPDX-License-Identifier: Apache-2.0

// Package inspect answers questions about images, without a VM: what is in one (Inspect), what is in a directory of them (List), which
// pages of two differ (Diff), where memory is stored (Map), and what the fields of the device state are. Seal adds a seal to an image of
// QEMU's or libvirt's, so that later questions about its pages have an answer.
//
// Images are read only, except that Seal appends to its own. Texts from images go into results as they are: whoever prints them makes
// them harmless.
package inspect

import (
	"fmt"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Options are what Inspect can be told. Only Image is required.
type Options struct {
	Image       string
	DeviceState bool // take the device state apart
	Map         int  // how many cells the memory is drawn in at most; 0: no map
}

// Result is what `ramjet inspect --json` prints. Offsets and sizes are in bytes.
type Result struct {
	Image        string     `json:"image"`
	Format       string     `json:"format"`       // who wrote it: ramjet, qemu, libvirt
	Machine      string     `json:"machine"`      // QEMU's machine type
	QEMUVersion  string     `json:"qemu_version"` // "" if the image does not say
	StreamOffset int64      `json:"stream_offset"`
	StreamBytes  int64      `json:"stream_bytes"`
	FileBytes    int64      `json:"file_bytes"`
	StoredBytes  int64      `json:"stored_bytes"` // of pages
	Complete     bool       `json:"complete"`
	Sealed       bool       `json:"sealed"`
	ID           string     `json:"id"`        // "" if not sealed
	Base         *seal.Base `json:"base"`      // of a diff
	NeededBy     []string   `json:"needed_by"` // diffs in the image's directory that build on it
	Created      *time.Time `json:"created"`   // null if not sealed
	Blocks       []Block    `json:"blocks"`
	Devices      []Device   `json:"devices,omitempty"` // with DeviceState

	// Shown to people only.
	Incomplete error              `json:"-"` // why Complete is false
	Seal       *seal.Metadata     `json:"-"` // nil if not sealed
	Libvirt    *mappedram.Libvirt `json:"-"` // nil if libvirt did not write it
	Map        *Map               `json:"-"`
	RunState   string             `json:"-"` // the VM's: "running", "paused", ...; "" if not known
	Asleep     bool               `json:"-"` // the guest sleeps (S3)
	Stuck      error              `json:"-"` // vmstate.ErrRunState if no QEMU can go on from RunState; else nil
	Described  bool               `json:"-"` // QEMU's own description is in the image
}

// Block is one block of guest memory.
type Block struct {
	Name         string `json:"name"`
	Length       int64  `json:"length"`
	PageSize     int64  `json:"page_size"`
	BitmapOffset int64  `json:"bitmap_offset"`
	PagesOffset  int64  `json:"pages_offset"`
	PagesTotal   int64  `json:"pages_total"`
	PagesStored  int64  `json:"pages_stored"`

	Ignored bool `json:"-"` // saver and loader share it; it is not in the image
}

// Inspect describes an image. An image that ends too early, with whole headers, gets a result too, whose Complete is false. The error
// for a file that is no image says what the file is, if that can be told.
func Inspect(o Options) (*Result, error) {
	img, incomplete, err := image.OpenAny(o.Image)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	r := &Result{
		Image:  o.Image,
		Format: img.Format, Machine: img.Config.MachineType, StreamOffset: img.Offset,
		StreamBytes: img.StreamEnd - img.Offset, FileBytes: img.FileSize,
		Complete: img.Complete, Incomplete: incomplete, Libvirt: img.Libvirt, Described: img.DescriptionLength > 0,
		Blocks: []Block{},
	}
	if s := img.Seal; s != nil {
		r.Sealed, r.ID, r.QEMUVersion, r.Base, r.Created, r.Seal = true, s.ID.String(), s.QEMUVersion, s.Base, &s.Created, &s.Metadata
	}
	r.NeededBy = []string{}
	if img.Seal != nil && img.Seal.Base == nil {
		r.NeededBy = dependents(o.Image, img.Seal.ID)
	}
	if err := r.readOn(img, o); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Image, err)
	}
	return r, nil
}

// readOn fills in what is not in the headers: stored pages, the map, the run state, the devices.
func (r *Result) readOn(img *image.File, o Options) error {
	for i, b := range img.Blocks {
		stored, err := img.StoredPages(i)
		if err != nil {
			return err
		}
		r.StoredBytes += stored * b.PageSize
		r.Blocks = append(r.Blocks, Block{
			b.Name, b.Length, b.PageSize, b.BitmapOffset, b.PagesOffset, b.Pages(), stored, b.Ignored,
		})
	}
	if o.Map > 0 {
		m, err := mapImage(img, o.Map)
		if err != nil {
			return err
		}
		r.Map = m
	}
	if r.Complete && img.SectionsLength <= image.MaxParsedState {
		if sections, err := img.DeviceSections(); err == nil {
			r.RunState, _ = vmstate.RunState(sections)
			r.Asleep, _ = vmstate.WasSuspended(sections)
			r.Stuck = vmstate.CheckRunState(sections)
		}
	}
	if !o.DeviceState {
		return nil
	}
	var err error
	r.Devices, err = deviceState(img)
	return err
}
