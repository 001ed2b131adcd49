// SPDX-License-Identifier: Apache-2.0

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
	Map         int  // draw the memory in at most so many cells; 0: not
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

	// What people are told besides.
	Incomplete error              `json:"-"` // why Complete is false
	Seal       *seal.Metadata     `json:"-"` // nil if not sealed
	Libvirt    *mappedram.Libvirt `json:"-"` // nil if libvirt did not write it
	Map        *Map               `json:"-"`
	RunState   string             `json:"-"` // "running", "paused", ...; "" if not known
	Asleep     bool               `json:"-"` // the guest sleeps (S3)
	Stuck      error              `json:"-"` // vmstate.ErrRunState, if no QEMU goes on from RunState; else nil
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

// Inspect says what is in an image. One whose headers are whole but which ends too early gets a result too, with
// Complete false; of anything else that is no image the error says what it is.
func Inspect(o Options) (*Result, error) {
	image, incomplete, err := image.OpenAny(o.Image)
	if err != nil {
		return nil, err
	}
	defer image.F.Close()
	r := &Result{
		Image:  o.Image,
		Format: image.Format, Machine: image.Config.MachineType, StreamOffset: image.Offset,
		StreamBytes: image.StreamEnd - image.Offset, FileBytes: image.FileSize,
		Complete: image.Complete, Incomplete: incomplete, Libvirt: image.Libvirt, Described: image.DescriptionLength > 0,
		Blocks: []Block{},
	}
	if s := image.Seal; s != nil {
		r.Sealed, r.ID, r.QEMUVersion, r.Base, r.Created, r.Seal = true, s.ID.String(), s.QEMUVersion, s.Base, &s.Created, &s.Metadata
	}
	r.NeededBy = []string{}
	if image.Seal != nil && image.Seal.Base == nil {
		r.NeededBy = dependents(o.Image, image.Seal.ID)
	}
	if err := r.inspect(image, o); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Image, err)
	}
	return r, nil
}

func (r *Result) inspect(img *image.File, o Options) error {
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
