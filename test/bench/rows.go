// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// rows are all that can be measured, in the order in which a round runs them.
func rows() []*Row {
	rows := []*Row{
		{Name: "disk write", Group: "save", What: "the same amount of bytes, from as much memory, with O_DIRECT by one plain loop", run: diskWrite},
		{Name: "disk write cached", Group: "save", What: "the same 4 MiB over and over by that loop, which stay in the processor's cache", run: diskWriteCached},
		{Name: "disk write fio", Group: "save", What: "the same bytes by fio, O_DIRECT, 4 MiB, 4 in flight", run: fioWrite},
		{Name: "ramjet first", Group: "save", What: "first save of a fresh guest, shared memfd", run: first(vm.Memfd, ramjetSample)},
		{Name: "ramjet", Group: "save", What: "later saves, shared memfd", run: again(vm.Memfd, ramjetSample)},
		{Name: "ramjet private", Group: "save", What: "later saves, anonymous memory", run: again(vm.Anonymous, ramjetSample)},
	}
	for _, n := range []int{2, 4} {
		rows = append(rows, &Row{Name: fmt.Sprintf("qemu first %d", n), Group: "save",
			What: fmt.Sprintf("QEMU's own, first save of a fresh guest: mapped-ram, direct-io, %d multifd channels", n),
			run:  first(vm.Memfd, qemuSave(n, true))})
	}
	for _, n := range []int{1, 2, 4, 8} {
		rows = append(rows, &Row{Name: fmt.Sprintf("qemu %d", n), Group: "save",
			What: fmt.Sprintf("QEMU's own, later saves: mapped-ram, direct-io, %d multifd channels", n),
			run:  again(vm.Memfd, qemuSave(n, true))})
	}
	rows = append(rows, &Row{Name: "qemu buffered", Group: "save", What: "QEMU's own, later saves: mapped-ram, 4 multifd channels, through the page cache",
		run: again(vm.Memfd, qemuSave(4, false))})
	rows = append(rows,
		&Row{Name: "disk read", Group: "load", What: "the same bytes with O_DIRECT by one plain loop", run: diskRead},
		&Row{Name: "ramjet eager", Group: "load", What: "all memory read before the guest runs, image not cached", run: restore(vm.Anonymous, "eager")},
		&Row{Name: "ramjet eager shared", Group: "load", What: "the same into a shared memfd", run: restore(vm.Memfd, "eager")},
		&Row{Name: "ramjet instant", Group: "load", What: "memory mapped from the image, image not cached", run: restore(vm.Anonymous, "instant")},
	)
	for _, size := range []string{"512M", "2G", "8G"} {
		rows = append(rows, &Row{Name: "ramjet instant " + size, Group: "load",
			What: "a guest of " + size + " with 256 MiB in use, mapped, image not cached", run: instantSized(size)})
	}
	for _, size := range []string{"512M", "12G"} {
		rows = append(rows, &Row{Name: "ramjet sparse " + size, Group: "sparse",
			What: "save of a guest of " + size + " with 256 MiB in use, anonymous memory", run: sparse(size, ramjetSample)})
		rows = append(rows, &Row{Name: "qemu sparse " + size, Group: "sparse",
			What: "the same by QEMU, 4 multifd channels", run: sparse(size, qemuSave(4, true))})
	}
	for _, n := range []int{1, 2, 4, 8} {
		rows = append(rows, &Row{Name: fmt.Sprintf("qemu load %d", n), Group: "load",
			What: fmt.Sprintf("QEMU's own: mapped-ram, direct-io, %d multifd channels", n), run: qemuLoad(n)})
	}
	return append(rows, libvirtRows()...)
}

// first measures with a guest that is saved for the first time.
func first(backend vm.Backend, f func(context.Context, *bench, *vm.VM) (Sample, error)) func(context.Context, *bench) (Sample, error) {
	return func(ctx context.Context, b *bench) (Sample, error) {
		v, err := b.fresh(ctx, backend)
		if err != nil {
			return Sample{}, err
		}
		defer v.Kill()
		return f(ctx, b, v)
	}
}

// again measures with a guest that has been saved before.
func again(backend vm.Backend, f func(context.Context, *bench, *vm.VM) (Sample, error)) func(context.Context, *bench) (Sample, error) {
	return func(ctx context.Context, b *bench) (Sample, error) {
		known := b.used[backend] != nil
		v, err := b.guest(ctx, backend)
		if err != nil {
			return Sample{}, err
		}
		if !known {
			if _, err := f(ctx, b, v); err != nil {
				return Sample{}, err
			}
		}
		return f(ctx, b, v)
	}
}
