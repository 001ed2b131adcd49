// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
)

// DiffOptions are what Diff can be told. Only A and B are required.
type DiffOptions struct {
	A, B string // images
	Base string // where the base of those that are diffs is, if not where it was
	Map  int    // how many cells the memory is drawn in at most; 0: no map

	Progress *image.Progress
}

// MaxDiffRanges is how many ranges a DiffResult names; it counts all pages.
const MaxDiffRanges = 10_000

// DiffResult is what `ramjet diff --json` prints.
type DiffResult struct {
	A              DiffImage   `json:"a"`
	B              DiffImage   `json:"b"`
	Same           bool        `json:"same"` // memory and device state
	PagesTotal     int64       `json:"pages_total"`
	PagesDiffer    int64       `json:"pages_differ"`
	BytesDiffer    int64       `json:"bytes_differ"` // of pages that differ
	DevicesDiffer  bool        `json:"devices_differ"`
	Blocks         []DiffBlock `json:"blocks"`
	Ranges         []DiffRange `json:"ranges"` // at most MaxDiffRanges
	RangesComplete bool        `json:"ranges_complete"`
	Seconds        float64     `json:"seconds"`

	Map *Map `json:"-"` // pages that are the same are data or zero
}

// DiffImage is one of the two images.
type DiffImage struct {
	Image   string `json:"image"`
	ID      string `json:"id"` // "" if it is not sealed
	Machine string `json:"machine"`
	// Sums: the sums in the image's seal were compared; else its pages were read.
	Sums bool `json:"sums"`
}

// DiffBlock is one block of memory.
type DiffBlock struct {
	Name        string `json:"name"`
	PagesTotal  int64  `json:"pages_total"`
	PagesDiffer int64  `json:"pages_differ"`
	// OnlyIn is "a" or "b" for a block that the other image lacks or does not store (x-ignore-shared): all of it differs.
	OnlyIn string `json:"only_in,omitempty"`
}

// DiffRange is a run of pages that differ.
type DiffRange struct {
	Block string `json:"block"`
	First int64  `json:"first"` // page
	Pages int64  `json:"pages"`
	// Address is the guest-physical address of the first page; the range is contiguous there too. -1: not known, or not the machine's
	// main memory (firmware, a video card's).
	Address int64 `json:"address"`
}

// diff is one Diff under way.
type diff struct {
	o      DiffOptions
	a, b   *image.PageSums
	result *DiffResult
	blocks []mappedram.Block // those of both images, in the order of result.Blocks
	from   [][2]int          // of each of blocks, its index in a and in b; -1: that image does not store it
}

// Diff compares the memory and the device state of two images. The pages of a sealed image are not read: their sums are compared. Sums of
// 64 bits find differences of any kind except ones that somebody constructed.
func Diff(ctx context.Context, o DiffOptions) (*DiffResult, error) {
	began := time.Now()
	d := &diff{o: o, result: &DiffResult{
		Blocks: []DiffBlock{}, Ranges: []DiffRange{}, RangesComplete: true,
	}}
	defer d.close()
	var err error
	if d.a, err = d.open(o.A, &d.result.A); err != nil {
		return nil, err
	}
	if d.b, err = d.open(o.B, &d.result.B); err != nil {
		return nil, err
	}
	if err := d.run(ctx); err != nil {
		return nil, err
	}
	r := d.result
	r.Ranges = d.atAddresses(r.Ranges)
	r.BytesDiffer = r.PagesDiffer * mappedram.PageSize
	r.Same = r.PagesDiffer == 0 && !r.DevicesDiffer && r.A.Machine == r.B.Machine
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// open opens an image, and its base if it is a diff, and checks that the seal's sums go with the image.
func (d *diff) open(path string, r *DiffImage) (*image.PageSums, error) {
	img, err := image.OpenFile(path, nil)
	if err != nil {
		return nil, err
	}
	var base *image.File
	fail := func(err error) (*image.PageSums, error) {
		img.Close()
		if base != nil {
			base.Close()
		}
		return nil, err
	}
	*r = DiffImage{Image: path, Machine: img.Config.MachineType, Sums: img.Seal != nil}
	if img.Seal != nil {
		r.ID = img.Seal.ID.String()
		if err := img.VerifyStream(); err != nil {
			return fail(fmt.Errorf("%s: %w", path, err))
		}
	}
	if img.BaseID() != nil {
		if base, err = image.OpenBaseOf(img, d.o.Base); err != nil {
			return fail(err)
		}
	}
	s, err := image.NewPageSums(img, base)
	if err != nil {
		return fail(err)
	}
	return s, nil
}

func (d *diff) close() {
	for _, s := range []*image.PageSums{d.a, d.b} {
		if s != nil {
			s.Image.Close()
			if s.Base != nil {
				s.Base.Image.Close()
			}
		}
	}
}

// run compares all blocks, and then the device state.
func (d *diff) run(ctx context.Context) error {
	d.pair()
	if d.o.Map > 0 {
		d.result.Map = newMap(d.blocks, d.o.Map)
	}
	d.o.Progress.SetPhase("comparing")
	for i := range d.blocks {
		if err := d.block(ctx, i); err != nil {
			return err
		}
	}
	a, err := deviceStateSum(d.a.Image)
	if err != nil {
		return err
	}
	b, err := deviceStateSum(d.b.Image)
	d.result.DevicesDiffer = a != b
	return err
}

// deviceStateSum is a hash of an image's device state.
func deviceStateSum(m *image.File) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	_, err = io.Copy(h, io.NewSectionReader(m.Descriptor, m.SectionsOffset, m.SectionsLength))
	h.Sum(sum[:0])
	return sum, err
}

// pair lists the blocks of both images, those of the first one first.
func (d *diff) pair() {
	place := map[string]int{} // of each block in d.blocks
	for side, s := range []*image.PageSums{d.a, d.b} {
		for i, b := range s.Image.Blocks {
			k, ok := place[b.Name]
			if !ok {
				k = len(d.blocks)
				place[b.Name] = k
				d.blocks = append(d.blocks, b)
				d.from = append(d.from, [2]int{-1, -1})
				d.result.Blocks = append(d.result.Blocks, DiffBlock{Name: b.Name})
			}
			d.blocks[k].Length = max(d.blocks[k].Length, b.Length)
			if !b.Ignored {
				d.from[k][side] = i
			}
		}
	}
	for k, b := range d.blocks {
		d.result.Blocks[k].PagesTotal = b.Pages()
		d.result.PagesTotal += b.Pages()
	}
	if d.o.Progress != nil {
		d.o.Progress.Total.Store(d.result.PagesTotal * mappedram.PageSize)
	}
}

// block compares one block. What only one of the images has of it differs.
func (d *diff) block(ctx context.Context, k int) error {
	pages := d.blocks[k].Pages()
	at := d.from[k]
	switch {
	case at[0] < 0 && at[1] < 0:
		d.note(k, 0, pages, absentPage)
		return nil
	case at[0] < 0 || at[1] < 0:
		d.result.Blocks[k].OnlyIn = map[bool]string{true: "b", false: "a"}[at[0] < 0]
		d.note(k, 0, pages, changedPage)
		return nil
	}
	common := min(d.a.Image.Blocks[at[0]].Pages(), d.b.Image.Blocks[at[1]].Pages())
	a, b := make([]uint64, min(common, image.SumWindow)), make([]uint64, min(common, image.SumWindow))
	for first := int64(0); first < common; first += image.SumWindow {
		n := min(image.SumWindow, common-first)
		if err := d.a.Window(ctx, at[0], first, a[:n]); err != nil {
			return err
		}
		if err := d.b.Window(ctx, at[1], first, b[:n]); err != nil {
			return err
		}
		d.compare(k, first, a[:n], b[:n])
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	d.note(k, common, pages, changedPage)
	return nil
}

// compare notes the pages from first on, whose sums are a and b, in runs of the same kind.
func (d *diff) compare(k int, first int64, a, b []uint64) {
	kind := func(i int) pageKind {
		switch {
		case a[i] != b[i]:
			return changedPage
		case a[i] == transfer.ZeroSum:
			return zeroPage
		}
		return dataPage
	}
	for start := 0; start < len(a); {
		end := start + 1
		for end < len(a) && kind(end) == kind(start) {
			end++
		}
		d.note(k, first+int64(start), first+int64(end), kind(start))
		start = end
	}
}

// note records the kind of the pages first to end-1 of a block.
func (d *diff) note(k int, first, end int64, kind pageKind) {
	r, n := d.result, end-first
	if d.o.Progress != nil {
		d.o.Progress.Done.Add(n * mappedram.PageSize)
	}
	if r.Map != nil {
		r.Map.add(k, first, end, kind)
	}
	if kind != changedPage || n == 0 {
		return
	}
	r.PagesDiffer += n
	r.Blocks[k].PagesDiffer += n
	name := d.blocks[k].Name
	if last := len(r.Ranges) - 1; last >= 0 && r.Ranges[last].Block == name && r.Ranges[last].First+r.Ranges[last].Pages == first {
		r.Ranges[last].Pages += n
	} else if len(r.Ranges) < MaxDiffRanges {
		r.Ranges = append(r.Ranges, DiffRange{name, first, n, -1})
	} else {
		r.RangesComplete = false
	}
}
