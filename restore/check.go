// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/seal"
)

// What a restore checks, of a sealed image:
//
//	            headers, bitmaps, device state, firmware's memory    guest memory
//	instant     while QEMU starts                                    not
//	  Verify    while QEMU starts                                    while QEMU waits
//	  Scrub     while QEMU starts                                    while the guest runs
//	eager       while QEMU starts                                    as it is read, before the guest runs
//
// An image without a seal has nothing to check against.

// checkImage checks an image and its base before anything gets into a VM. (The firmware's memory is checked as the state stream is
// made.)
func checkImage(ctx context.Context, o Options, img *image.Image) error {
	if img.Seal == nil {
		if o.Verify || o.Scrub {
			return fmt.Errorf("%s: %w, so its pages cannot be checked: add one with ramjet seal", img.Path, seal.ErrNoSeal)
		}
		return nil
	}
	if img.Base != nil {
		if err := checkFile(ctx, o, img.Base, o.Verify); err != nil {
			return err
		}
	}
	// A diff is checked as a whole: all of it is going to be read.
	return checkFile(ctx, o, img.File, o.Verify || img.Base != nil)
}

// checkFile checks an image or its base; pages: those of guest memory too, which Eager checks later, as it reads them.
func checkFile(ctx context.Context, o Options, f *image.File, pages bool) (err error) {
	switch {
	case o.Mode == Eager:
		err = f.VerifyStream()
	case pages:
		// Through the page cache: the guest is going to want the pages.
		_, err = image.VerifyOpened(ctx, f, image.VerifyOptions{Calls: o.Calls, Image: f.Path, Channels: o.Channels, Direct: directio.Off, Progress: o.Progress})
		return err
	default:
		err = f.VerifyState()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return nil
}

// Scrub checks the image that the VM was restored from while the VM runs, if Options.Scrub asked for that. It reads with one channel
// and past the page cache, so as not to slow the guest down. To be called once.
func (v *VM) Scrub(ctx context.Context) (*image.VerifyResult, error) {
	if v.image == nil {
		return nil, errors.New("the VM was not restored to be scrubbed")
	}
	defer v.image.Close()
	return image.VerifyOpened(ctx, v.image, image.VerifyOptions{Calls: v.image.Calls, Image: v.image.Path, Channels: 1})
}

// Scrub checks the image that all clones were started from, as VM.Scrub does. To be called once.
func (c *Clones) Scrub(ctx context.Context) (*image.VerifyResult, error) {
	if len(c.vms) == 0 {
		return nil, errors.New("no clone runs")
	}
	for _, v := range c.vms[1:] {
		if v.image != nil {
			v.image.Close()
		}
	}
	return c.vms[0].Scrub(ctx)
}
