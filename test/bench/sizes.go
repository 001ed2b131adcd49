// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// smallFill is what the guests that differ only in size have in use, in MiB: 256 beside a guest of 4 GiB.
func (b *bench) smallFill() int { return int(b.size >> 20 / 16) }

// sparse measures with a guest of that size of which little is in use.
func sparse(size string, f func(context.Context, *bench, *vm.VM) (Sample, error)) measure {
	return func(ctx context.Context, b *bench) (Sample, error) {
		v, err := b.sized(ctx, size)
		if err != nil {
			return Sample{}, err
		}
		return f(ctx, b, v)
	}
}

// sized is kept for the later rounds, and shared by the rows of that size.
func (b *bench) sized(ctx context.Context, size string) (*vm.VM, error) {
	if v := b.sizes[size]; v != nil {
		return v, nil
	}
	v, err := vm.Start(ctx, vm.Config{Memory: size, Fill: b.smallFill()})
	if err == nil {
		b.sizes[size] = v
	}
	return v, err
}
