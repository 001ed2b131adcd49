// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// smallUse is what the guests that differ only in size have in use, in MiB, their kernel with it: 384 beside a guest of 4 GiB.
func (b *bench) smallUse() int { return int(b.size >> 20 * 3 / 32) }

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

// sparseByQEMU is the last that is done with its guest: QEMU reads memory that the guest never touched, and some kernels give who reads
// pages of his own. Then all of it is taken, more than the machine has for guests of all sizes.
func sparseByQEMU(size string) measure {
	return func(ctx context.Context, b *bench) (Sample, error) {
		s, err := sparse(size, qemuSave(4, true))(ctx, b)
		if v := b.sizes[size]; v != nil {
			v.Kill()
			delete(b.sizes, size)
		}
		return s, err
	}
}

// sized is kept for the later rounds, and shared by the rows of that size.
func (b *bench) sized(ctx context.Context, size string) (*vm.VM, error) {
	if v := b.sizes[size]; v != nil {
		return v, goOn(v)
	}
	v, err := vm.Start(ctx, vm.Config{Memory: size, Fill: 1, Append: "transparent_hugepage=never"})
	if err != nil {
		return nil, err
	}
	b.sizes[size] = v
	// What a kernel uses itself grows with the guest: the descriptions of its pages alone are 16 MiB a GiB.
	image := filepath.Join(b.dir, "sized")
	defer os.Remove(image)
	r, _, err := b.saveTo(ctx, v, image)
	if err != nil {
		return nil, err
	}
	if rest := b.smallUse() - int(r.BytesStored>>20); rest > 0 {
		err = v.Fill(rest)
	}
	return v, err
}
