// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// rows are all that can be measured, in the order in which a round runs them.
func (b *bench) rows() (rows []*Row) {
	for _, part := range [][]*Row{
		b.saveRows(), libvirtRows(), b.loadRows(), warmRows(), b.instantRows(), b.sparseRows(), liveRows(), b.diffRows(), b.cloneRows(),
	} {
		rows = append(rows, part...)
	}
	return rows
}

// few are all of them, or with Quick the first n.
func (b *bench) few(n int, all ...int) []int {
	if b.Quick {
		return all[:n]
	}
	return all
}

func (b *bench) saveRows() []*Row {
	rows := []*Row{
		{Name: "disk write", Group: "save", What: "the same amount of bytes, from as much memory, with O_DIRECT by one plain loop", run: diskWrite},
		{Name: "disk write cached", Group: "save", What: "the same 4 MiB over and over by that loop, which stay in the processor's cache", run: diskWriteCached},
		{Name: "disk write fio", Group: "save", What: "the same bytes by fio, O_DIRECT, 4 MiB, 4 in flight", run: fioWrite},
		{Name: "ramjet first", Group: "save", What: "first save of a fresh guest, shared memfd", run: first(vm.Memfd, saved())},
		{Name: "ramjet", Group: "save", What: "later saves, shared memfd", run: again(vm.Memfd, saved())},
		{Name: "ramjet private", Group: "save", What: "later saves, anonymous memory", run: again(vm.Anonymous, saved())},
	}
	for _, n := range b.few(1, 2, 4) {
		rows = append(rows, &Row{Name: fmt.Sprintf("qemu first %d", n), Group: "save",
			What: fmt.Sprintf("QEMU's own, first save of a fresh guest: mapped-ram, direct-io, %d multifd channels", n),
			run:  first(vm.Memfd, qemuSave(n, true))})
	}
	for _, n := range b.few(2, 1, 2, 4, 8) {
		rows = append(rows, &Row{Name: fmt.Sprintf("qemu %d", n), Group: "save",
			What: fmt.Sprintf("QEMU's own, later saves: mapped-ram, direct-io, %d multifd channels", n),
			run:  again(vm.Memfd, qemuSave(n, true))})
	}
	for _, n := range b.few(2, 1, 2, 4, 8) {
		rows = append(rows, &Row{Name: fmt.Sprintf("qemu buffered %d", n), Group: "save",
			What: fmt.Sprintf("QEMU's own, later saves: mapped-ram, %d multifd channels, through the page cache", n),
			run:  again(vm.Memfd, qemuSave(n, false))})
	}
	return rows
}

func (b *bench) loadRows() []*Row {
	rows := []*Row{
		{Name: "disk read", Group: "load", What: "the same amount of bytes, into as much memory, with O_DIRECT by one plain loop", run: diskRead},
		{Name: "disk read cached", Group: "load", What: "into the same 4 MiB over and over by that loop, which stay in the processor's cache", run: diskReadCached},
		{Name: "ramjet eager", Group: "load", What: "all memory read before the guest runs, image not cached", run: restoreVM(vm.Anonymous, false, "--mode", "eager")},
		{Name: "ramjet eager shared", Group: "load", What: "the same into a shared memfd", run: restoreVM(vm.Memfd, false, "--mode", "eager")},
		{Name: "ramjet instant", Group: "load", What: "until the guest runs, memory mapped from the image, image not cached", run: restoreVM(vm.Anonymous, false)},
		{Name: "ramjet instant alone", Group: "load", What: "the same with --prefetch=off", run: restoreVM(vm.Anonymous, false, "--prefetch", "off")},
		{Name: "ramjet resident", Group: "load", What: "the same until all memory is in the page cache, behind the running guest (--prefetch=wait)", run: restoreVM(vm.Anonymous, false, "--prefetch", "wait")},
		{Name: "qemu start", Group: "load", What: "QEMU alone until its monitor greets, nothing loaded: no restore is sooner", run: qemuStart},
	}
	for _, n := range b.few(2, 1, 2, 4, 8) {
		rows = append(rows, &Row{Name: fmt.Sprintf("qemu load %d", n), Group: "load",
			What: fmt.Sprintf("QEMU's own: mapped-ram, direct-io, %d multifd channels, image not cached", n), run: qemuLoad(n, true, false)})
	}
	return append(rows, &Row{Name: "qemu load buffered 4", Group: "load",
		What: "QEMU's own: mapped-ram, 4 multifd channels, through the page cache, image not cached", run: qemuLoad(4, false, false)})
}

func warmRows() []*Row {
	return []*Row{
		{Name: "qemu load warm", Group: "warm", What: "QEMU's own load, 4 multifd channels, through the page cache, where the image is", run: qemuLoad(4, false, true)},
		{Name: "qemu load warm direct", Group: "warm", What: "the same with direct-io, past the page cache", run: qemuLoad(4, true, true)},
		{Name: "ramjet eager warm", Group: "warm", What: "all memory read before the guest runs, image in the page cache", run: restoreVM(vm.Anonymous, true, "--mode", "eager")},
		{Name: "ramjet instant warm", Group: "warm", What: "memory mapped from the image, image in the page cache", run: restoreVM(vm.Anonymous, true)},
	}
}

func (b *bench) instantRows() (rows []*Row) {
	for _, eighths := range b.few(2, 1, 4, 16) {
		size := b.eighths(eighths)
		rows = append(rows, &Row{Name: "ramjet instant " + size, Group: "instant",
			What: fmt.Sprintf("a guest of %s with %d MiB in use, mapped, image not cached", size, b.smallUse()), run: instantSized(size)})
	}
	return rows
}

func (b *bench) sparseRows() (rows []*Row) {
	sizes := []int{1, 24}
	if b.Quick {
		sizes = []int{1, 4} // these guests are there already
	}
	for _, eighths := range sizes {
		size := b.eighths(eighths)
		rows = append(rows,
			&Row{Name: "ramjet sparse " + size, Group: "sparse",
				What: fmt.Sprintf("save of a guest of %s with %d MiB in use, anonymous memory", size, b.smallUse()), run: sparse(size, saved())},
			&Row{Name: "qemu sparse " + size, Group: "sparse", What: "the same by QEMU, 4 multifd channels", run: sparseByQEMU(size)})
	}
	return rows
}

func liveRows() []*Row {
	what := fmt.Sprintf("a guest that dirties %d MiB/s, shared memfd, onto a target limited to %sB/s: ", liveDirt, liveLimit)
	return []*Row{
		{Name: "ramjet stopped", Group: "live", What: what + "the guest stands still", run: busy()},
		{Name: "ramjet live", Group: "live", What: what + "--live, the guest runs but for the pause", run: busy("--live")},
	}
}

func (b *bench) diffRows() (rows []*Row) {
	dirt := fmt.Sprintf("%d MiB", b.dirt()>>8)
	for _, eighths := range b.few(2, 2, 8, 16) {
		size := b.eighths(eighths)
		group := "diff " + size
		rows = append(rows,
			&Row{Name: "ramjet full " + size, Group: group, run: grownFull(size),
				What: fmt.Sprintf("full save of a guest of %s without khugepaged, restored instantly, that has dirtied %s", size, dirt)},
			&Row{Name: "ramjet diff " + size, Group: group, run: grownDiff(size, 1),
				What: "what of it is no longer mapped from the base: neighbouring pages"},
			&Row{Name: "ramjet diff scattered " + size, Group: group, run: grownDiff(size, b.scattered()),
				What: fmt.Sprintf("the same with every %d. page dirtied", b.scattered())})
	}
	return append(rows,
		&Row{Name: "disk write scattered", Group: "diff " + b.eighths(8), run: diskScattered,
			What: "as many pages as far apart by one plain loop, and fsync: the file system's share of such a diff"},
		&Row{Name: "ramjet base", Group: "diff sums", What: "full save of a guest with shared memfd", run: sumsBase},
		&Row{Name: "ramjet diff sums", Group: "diff sums", run: sumsDiff,
			What: "diff of it when it has dirtied " + dirt + ", and was not restored from the base: pages whose sums differ"})
}

func (b *bench) cloneRows() []*Row {
	what := fmt.Sprintf("until %%s of a guest of %s with %d MiB in use, image not cached", b.Memory, b.Fill)
	return []*Row{
		{Name: "ramjet clone 1", Group: "clone", What: fmt.Sprintf(what, "one clone runs"), run: clone(1, 0)},
		{Name: "ramjet clone 10", Group: "clone", What: fmt.Sprintf(what, "ten clones run") +
			fmt.Sprintf("; memory of one: median of Pss after %s, the guest idle and without khugepaged", idle), run: clone(10, idle)},
	}
}

// first measures with a guest that is saved for the first time.
func first(backend vm.Backend, f func(context.Context, *bench, *vm.VM) (Sample, error)) measure {
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
func again(backend vm.Backend, f func(context.Context, *bench, *vm.VM) (Sample, error)) measure {
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
