// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// scattered is how far dirty pages are apart of which no two are neighbours, in pages: 11, or as far as the smallest guest's memory in use allows.
func (b *bench) scattered() int { return min(11, b.Fill<<8/4/b.dirt()) }

// grownFull, and grownDiff, measure a save of a guest that was restored instantly and has dirtied a hundredth of b.Memory since: all of it, or what
// is no longer in the image from which it runs.
func grownFull(size string) measure {
	return func(ctx context.Context, b *bench) (Sample, error) { return b.saveGrown(ctx, size, 1, false) }
}

func grownDiff(size string, stride int) measure {
	return func(ctx context.Context, b *bench) (Sample, error) { return b.saveGrown(ctx, size, stride, true) }
}

func (b *bench) saveGrown(ctx context.Context, size string, stride int, diff bool) (s Sample, err error) {
	o, err := b.origin(ctx, size)
	if err != nil {
		return s, err
	}
	v, end, err := b.grown(ctx, o, stride)
	if err != nil {
		return s, err
	}
	defer end()
	if diff {
		return saved("--base", o.image)(ctx, b, v)
	}
	return saved()(ctx, b, v)
}

// sumsBase measures the save of the base for sumsDiff.
func sumsBase(ctx context.Context, b *bench) (s Sample, err error) {
	v, err := b.guest(ctx, vm.Memfd)
	if err != nil {
		return s, err
	}
	os.Remove(b.sumsImage())
	_, s, err = b.saveTo(ctx, v, b.sumsImage())
	return s, err
}

// sumsDiff measures a diff of a guest that was not restored from its base, so that only sums tell what is different.
func sumsDiff(ctx context.Context, b *bench) (s Sample, err error) {
	v, err := b.guest(ctx, vm.Memfd)
	if err != nil {
		return s, err
	}
	if _, err := os.Stat(b.sumsImage()); err != nil {
		if s, err = sumsBase(ctx, b); err != nil {
			return s, err
		}
	}
	defer os.Remove(b.sumsImage())
	if err := v.Touch(b.dirt(), 1); err != nil {
		return s, err
	}
	return saved("--base", b.sumsImage())(ctx, b, v)
}

func (b *bench) sumsImage() string { return filepath.Join(b.dir, "base") }
