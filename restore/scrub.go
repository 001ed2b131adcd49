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

// verify checks what is to be checked before anything gets into a VM. The firmware's memory openState checks.
func (r *restore) verify(ctx context.Context) error {
	if r.image.Seal == nil {
		if r.Verify || r.Scrub {
			return fmt.Errorf("%s: %w, so its pages cannot be checked: add one with ramjet seal", r.Image, seal.ErrNoSeal)
		}
		return nil
	}
	if r.image.Base != nil {
		if err := r.verifyImage(ctx, r.image.Base, r.Verify); err != nil {
			return err
		}
	}
	// All that a diff has is read anyway.
	return r.verifyImage(ctx, r.image.File, r.Verify || r.image.Base != nil)
}

func (r *restore) verifyImage(ctx context.Context, img *image.File, pages bool) (err error) {
	switch {
	case r.Mode == Eager:
		err = img.VerifyStream()
	case pages:
		// Through the page cache, if that is how it is: the guest is going to want the pages.
		o := image.VerifyOptions{Image: img.Path, Channels: r.Channels, Direct: directio.Off, Progress: r.Progress}
		_, err = image.VerifyOpened(ctx, img, o)
		return err
	default:
		err = img.VerifyState()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", img.Path, err)
	}
	return nil
}

// Scrub checks the image that the VM was restored from while the VM runs, if RestoreOptions.Scrub asked for
// that. It reads by one channel and past the page cache, so as not to be in the guest's way. To be called once.
func (v *VM) Scrub(ctx context.Context) (*image.VerifyResult, error) {
	if v.image == nil {
		return nil, errors.New("the VM was not restored to be scrubbed")
	}
	defer v.image.F.Close()
	return image.VerifyOpened(ctx, v.image, image.VerifyOptions{Image: v.image.Path, Channels: 1})
}

// Scrub checks the image that all clones were started from, once, as VM.Scrub does. To be called once.
func (c *Clones) Scrub(ctx context.Context) (*image.VerifyResult, error) {
	if len(c.vms) == 0 {
		return nil, errors.New("no clone runs")
	}
	for _, v := range c.vms[1:] {
		if v.image != nil {
			v.image.F.Close()
		}
	}
	return c.vms[0].Scrub(ctx)
}
