// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// VerifyOptions are what Verify can be told. Only Image is required.
type VerifyOptions struct {
	Image    string
	Base     string // the base, if the image is a diff; empty: where it was when the diff was made
	Channels int    // 1 to 255; 0: chosen
	Direct   directio.Mode
	Calls    *sys.Calls // nil: the kernel's

	Progress *Progress
	Log      func(string)
}

// MaxBadPages is how many bad pages a VerifyResult names; it counts all.
const MaxBadPages = 10_000

// VerifyResult is what `ramjet verify --json` prints.
type VerifyResult struct {
	Image          string    `json:"image"`
	OK             bool      `json:"ok"` // it is sealed, and everything is as it was sealed
	Sealed         bool      `json:"sealed"`
	ID             string    `json:"id,omitempty"`
	Damage         []string  `json:"damage"`        // what is wrong besides pages
	PagesBad       int64     `json:"pages_bad"`     // of PagesChecked, and of those that are not stored
	BadPages       []BadPage `json:"bad_pages"`     // by offset; at most MaxBadPages
	PagesChecked   int64     `json:"pages_checked"` // stored ones
	BytesChecked   int64     `json:"bytes_checked"`
	IO             string    `json:"io"`     // direct or buffered
	IOWhy          string    `json:"io_why"` // half a sentence, for people
	Channels       int       `json:"channels"`
	Seconds        float64   `json:"seconds"`
	BytesPerSecond float64   `json:"bytes_per_second"`
	// PagesStale counts the pages that are zero and hold something else in an image of QEMU's, which leaves such. Restores make them
	// zero. In an image of Ramjet's they are bad.
	PagesStale int64 `json:"pages_stale,omitempty"`

	Base      *VerifyResult `json:"base,omitempty"`       // of a diff: what was found of its base, if that is there
	BaseError string        `json:"base_error,omitempty"` // of a diff: why nothing can be restored with that base
}

// Verify checks an image: everything against the seal, or, where there is none, that headers, bitmaps and device state
// can be what they should be.
//
// A diff is as good as its base, which is checked as well.
//
// The error is nil for a sealed image without fault. It matches mappedram.ErrImage if the image is damaged, and
// seal.ErrNoSeal if no fault was found but pages could not be checked for want of a seal. Unless the file cannot be
// opened as an image there is a result beside the error.
func Verify(ctx context.Context, o VerifyOptions) (*VerifyResult, error) {
	if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
		return nil, err
	}
	image, err := OpenFile(o.Image, o.Calls)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	r, err := VerifyOpened(ctx, image, o)
	if r == nil || image.BaseID() == nil || context.Cause(ctx) != nil {
		return r, err
	}
	errBase := r.verifyBase(ctx, image, o)
	if r.OK = err == nil && errBase == nil; err == nil {
		err = errBase
	}
	return r, err
}

// verifyBase checks the base of a diff.
func (r *VerifyResult) verifyBase(ctx context.Context, diff *File, o VerifyOptions) error {
	base, err := OpenBaseOf(diff, o.Base)
	if err == nil {
		defer base.Close()
		if r.Base, err = VerifyOpened(ctx, base, o); err != nil {
			err = fmt.Errorf("the base of %s: %w", diff.Path, err)
		}
	}
	if err != nil {
		r.BaseError = err.Error()
	}
	return err
}

// verify is one Verify under way.
type verify struct {
	o      VerifyOptions
	image  *File
	params transfer.Params
	result *VerifyResult

	mu    sync.Mutex // protects stale, and PagesBad and BadPages of result
	stale int64      // how many of PagesBad are stale
}

// VerifyOpened checks an open image against its seal as Verify does, and no base. Of o it uses all but Image and Base.
func VerifyOpened(ctx context.Context, image *File, o VerifyOptions) (*VerifyResult, error) {
	began := time.Now()
	v := &verify{o: o, image: image, result: &VerifyResult{
		Image: image.Path, Sealed: image.Seal != nil, Damage: []string{}, BadPages: []BadPage{},
	}}
	r := v.result
	err := v.run(ctx)
	slices.SortFunc(r.BadPages, func(a, b BadPage) int { return cmp.Compare(a.Offset, b.Offset) })
	r.Seconds = time.Since(began).Seconds()
	if r.Seconds > 0 {
		r.BytesPerSecond = float64(r.BytesChecked) / r.Seconds
	}
	if err == nil {
		err = v.verdict()
	}
	r.OK = err == nil
	return r, err
}

func (v *verify) run(ctx context.Context) error {
	reopen := v.image.Reopen()
	io, err := directio.Chooser{Mode: v.o.Direct, Calls: v.o.Calls}.Choose(reopen, os.O_RDONLY)
	if err != nil {
		return err
	}
	// Direct where possible, not from the page cache, though that is faster: the disk is what may have become wrong.
	v.params = transfer.Params{Calls: v.o.Calls, Channels: v.o.Channels, Direct: io.Direct}
	v.result.IO, v.result.IOWhy, v.result.Channels = io.String(), io.Why, cmp.Or(v.o.Channels, transfer.DefaultChannels)
	v.o.Progress.SetPhase("checking headers, bitmaps and device state")
	if err := v.structure(); err != nil || v.image.Seal == nil {
		return err
	}
	v.result.ID = v.image.Seal.ID.String()
	// With wrong sums, or bitmaps that do not go with them, every page would look bad.
	if err := v.image.VerifyStream(); err != nil {
		return v.damage(err)
	}
	v.o.Progress.SetPhase("checking pages")
	if v.o.Progress != nil {
		v.o.Progress.Total.Store(v.image.Seal.TotalStored() * mappedram.PageSize)
	}
	if err := v.pages(ctx); err != nil {
		return err
	}
	v.o.Progress.SetPhase("checking what is not stored")
	return v.unstored(ctx)
}

// unstored finds the pages that are not stored, and so are zero, and whose places in the file hold something else.
func (v *verify) unstored(ctx context.Context) error {
	for i, block := range v.image.Blocks {
		if block.Ignored {
			continue
		}
		err := v.image.findStale(ctx, v.params, i, func(page int64) error {
			return v.note(BadPage{Block: block.Name, Page: page, Offset: block.PagesOffset + page*block.PageSize, Stale: true})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// damage notes damage, and passes other errors on.
func (v *verify) damage(err error) error {
	if errors.Is(err, mappedram.ErrImage) || errors.Is(err, vmstate.ErrCorrupt) || errors.Is(err, vmstate.ErrTruncated) {
		v.result.Damage = append(v.result.Damage, err.Error())
		return nil
	}
	return err
}

// structure checks what can be checked without a seal and was not checked when the image was opened.
func (v *verify) structure() error {
	var stored int64
	for i := range v.image.Blocks {
		n, err := v.image.StoredPages(i)
		if err != nil {
			return v.damage(err)
		}
		stored += n
	}
	if stored == 0 && (v.image.Seal == nil || v.image.Seal.Base == nil) {
		v.result.Damage = append(v.result.Damage, "no page of memory is stored at all, as when mapped-ram meets background-snapshot: the VM's memory is lost")
	}
	_, _, err := v.image.DeviceState()
	if errors.Is(err, mappedram.ErrUnsupported) {
		if v.o.Log != nil {
			v.o.Log("the device state is too large to be taken apart")
		}
		return nil
	}
	return v.damage(err)
}

// batchPages bounds how many pages are read in one go of the engine, and so the bitmap that is in memory: 2 MiB.
var batchPages int64 = 1 << 24

// pages reads and checks all stored pages, a batch at a time.
func (v *verify) pages(ctx context.Context) error {
	var batch []transfer.LoadBlock
	var pages int64
	check := &PageCheck{Image: v.image.Image, Bad: v.note}
	flush := func() error {
		l := &transfer.Load{Blocks: batch, Image: v.image.Reopen(), Params: v.params, Sink: v.counting(check), Unreadable: check.unreadable}
		err := l.Run(ctx)
		v.result.PagesChecked += l.Progress.Pages.Load()
		v.result.BytesChecked += l.Progress.Bytes.Load()
		batch, pages, check.parts = nil, 0, nil
		return err
	}
	for i, block := range v.image.Blocks {
		if block.Ignored {
			continue
		}
		rank := int64(0)
		for first := int64(0); first < block.Pages(); {
			n := min(block.Pages()-first, batchPages-pages)
			if n < block.Pages()-first {
				n &^= 63 // parts of a bitmap begin at words
			}
			if n > 0 {
				stored, err := v.image.BitmapPart(i, first, n)
				if err != nil {
					return err
				}
				batch = append(batch, check.add(i, first, n, rank, stored))
				pages, first, rank = pages+n, first+n, rank+stored.Count()
			}
			if n == 0 || pages >= batchPages {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// counting is the check c, with its progress counted.
func (v *verify) counting(c *PageCheck) func(int, int64, []byte) error {
	return func(part int, first int64, pages []byte) error {
		if v.o.Progress != nil {
			v.o.Progress.Done.Add(int64(len(pages)))
			v.o.Progress.Bytes.Add(int64(len(pages)))
		}
		return c.Check(part, first, pages)
	}
}

// note counts a bad page, and keeps the first MaxBadPages. It is called from several goroutines at a time.
func (v *verify) note(b BadPage) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b.Stale && v.image.Format != "ramjet" {
		v.result.PagesStale++
		return nil
	}
	v.result.PagesBad++
	if b.Stale {
		v.stale++
	}
	if len(v.result.BadPages) < MaxBadPages {
		v.result.BadPages = append(v.result.BadPages, b)
	}
	return nil
}

// verdict is the error that describes in one line what was found; nil: nothing.
func (v *verify) verdict() error {
	r := v.result
	switch {
	case len(r.Damage) > 0:
		return fmt.Errorf("%s: %w: %s", r.Image, mappedram.ErrImage, strings.Join(r.Damage, "; "))
	case r.PagesBad > 0:
		var found []string
		if stored := r.PagesBad - v.stale; stored > 0 {
			found = append(found, fmt.Sprintf("%d of %d stored pages are not what was sealed or cannot be read", stored, r.PagesChecked))
		}
		if v.stale > 0 {
			found = append(found, fmt.Sprintf("%d pages are zero and hold something else", v.stale))
		}
		return fmt.Errorf("%s: %w: %s; the first is %s", r.Image, mappedram.ErrDamaged, strings.Join(found, ", "), r.BadPages[0])
	case !r.Sealed:
		return fmt.Errorf("%s: %w, so its pages cannot be checked; headers, bitmaps and device state are well-formed (ramjet seal adds a seal)", r.Image, seal.ErrNoSeal)
	}
	return nil
}
