// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/snapshot"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// smallFill is what the guests that differ only in size have in use, in MiB.
const smallFill = 256

// sparse measures with a guest of that size of which little is in use. It is kept for the later rounds, and
// shared by the rows of that size.
func sparse(size string, f func(context.Context, *bench, *vm.VM) (Sample, error)) func(context.Context, *bench) (Sample, error) {
	return func(ctx context.Context, b *bench) (Sample, error) {
		v, err := b.sized(ctx, size)
		if err != nil {
			return Sample{}, err
		}
		return f(ctx, b, v)
	}
}

func (b *bench) sized(ctx context.Context, size string) (*vm.VM, error) {
	if v := b.sizes[size]; v != nil {
		return v, nil
	}
	v, err := vm.Start(ctx, vm.Config{Memory: size, Fill: smallFill})
	if err == nil {
		b.sizes[size] = v
	}
	return v, err
}

// instantSized measures an instant restore of a guest of that size, from an image of its own that is not cached.
func instantSized(size string) func(context.Context, *bench) (Sample, error) {
	return func(ctx context.Context, b *bench) (Sample, error) {
		image := filepath.Join(filepath.Dir(b.image), "instant-"+size)
		v, err := b.sized(ctx, size)
		if err != nil {
			return Sample{}, err
		}
		if _, err := os.Stat(image); err != nil {
			var r snapshot.SaveResult
			if _, err := b.ramjet(ctx, &r, "save", "--qmp", v.QMP, image); err != nil {
				return Sample{}, err
			}
		}
		if err := evict(image); err != nil {
			return Sample{}, err
		}
		return b.restoreOnce(ctx, v, image, "instant", 0)
	}
}
