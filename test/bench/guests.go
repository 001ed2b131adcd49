// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// bench is a run under way. A guest that rows can share is kept from round to round, and so are the images from which others start.
type bench struct {
	Config
	size   int64  // Memory in bytes
	dir    string // removed at the end
	image  string // in it, what is written, and removed before it is written again
	stored int64  // page bytes of a save, which is what the plain loop writes too
	round  int

	used    map[vm.Backend]*vm.VM
	sizes   map[string]*vm.VM
	loads   map[vm.Backend]*load
	origins map[string]*origin
	virsh   string // name of the libvirt format in which image is, if it is
}

func newBench(c Config) (*bench, error) {
	size, err := vm.ParseSize(c.Memory)
	if err != nil {
		return nil, err
	}
	if least := size >> 20 / 8; int64(c.Fill) < least || int64(c.Fill) > 6*least {
		return nil, fmt.Errorf("%d MiB in use of a guest of %s: give it an eighth to three quarters of its memory, %d to %d MiB", c.Fill, c.Memory, least, 6*least)
	}
	parent, err := filepath.Abs(c.Dir) // libvirt's daemon is somewhere else
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, "ramjet-bench-")
	if err != nil {
		return nil, err
	}
	return &bench{
		Config: c, size: size, dir: dir, image: filepath.Join(dir, "image"), used: map[vm.Backend]*vm.VM{},
		sizes: map[string]*vm.VM{}, loads: map[vm.Backend]*load{}, origins: map[string]*origin{},
	}, nil
}

func (b *bench) close() {
	for _, v := range b.used {
		v.Kill()
	}
	for _, v := range b.sizes {
		v.Kill()
	}
	os.RemoveAll(b.dir)
}

// eighths names a size that is so many eighths of the guest's, as -m takes it.
func (b *bench) eighths(n int) string {
	mib := b.size >> 20 * int64(n) / 8
	if mib%1024 == 0 {
		return fmt.Sprintf("%dG", mib/1024)
	}
	return fmt.Sprintf("%dM", mib)
}

// fresh starts a guest that nobody has saved yet.
func (b *bench) fresh(ctx context.Context, backend vm.Backend) (*vm.VM, error) {
	return vm.Start(ctx, vm.Config{Memory: b.Memory, Fill: b.Fill, Backend: backend})
}

// guest is one that has been saved before, kept from round to round.
func (b *bench) guest(ctx context.Context, backend vm.Backend) (*vm.VM, error) {
	if v := b.used[backend]; v != nil {
		return v, goOn(v)
	}
	v, err := b.fresh(ctx, backend)
	if err != nil {
		return nil, err
	}
	b.used[backend] = v
	return v, nil
}

// still stops all guests that are kept, until one is asked for again: even an idle one takes a tenth of a processor without KVM, which a row
// that does not need it would pay for.
func (b *bench) still() {
	for _, v := range b.used {
		syscall.Kill(v.PID, syscall.SIGSTOP)
	}
	for _, v := range b.sizes {
		syscall.Kill(v.PID, syscall.SIGSTOP)
	}
}

func goOn(v *vm.VM) error { return syscall.Kill(v.PID, syscall.SIGCONT) }

// measureStored learns how many bytes a save of such a guest stores.
func (b *bench) measureStored(ctx context.Context) error {
	v, err := b.guest(ctx, vm.Memfd)
	if err != nil {
		return err
	}
	r, _, err := b.ramjetSave(ctx, v)
	if err == nil {
		b.stored = r.BytesStored
	}
	return err
}

// origin is an image from which guests are restored, and what its VM was, which runs no more.
type origin struct {
	v     *vm.VM
	image string
}

// origin makes one of a guest of that size, of which as much is in use as of the others, in proportion if it is smaller. It has no khugepaged,
// because with that a guest is never idle: it copies some 1.6 MiB a second into huge pages, and what it writes is nobody's dirt.
func (b *bench) origin(ctx context.Context, size string) (*origin, error) {
	if o := b.origins[size]; o != nil {
		return o, nil
	}
	bytes, err := vm.ParseSize(size)
	if err != nil {
		return nil, err
	}
	fill := min(b.Fill, int(int64(b.Fill)*bytes/b.size))
	v, err := vm.Start(ctx, vm.Config{Memory: size, Fill: fill, Append: "transparent_hugepage=never"})
	if err != nil {
		return nil, err
	}
	defer v.Kill()
	o := &origin{v: v, image: filepath.Join(b.dir, "origin-"+size)}
	var r save.Result
	if _, err := b.ramjet(ctx, &r, "save", "--qmp", v.QMP, o.image); err != nil {
		return nil, err
	}
	b.origins[size] = o
	return o, nil
}

// grown is a guest that was restored instantly from an origin and has rewritten a hundredth of b.Memory since, every stride-th page.
// The origin is in the page cache, where a guest that has run for a while would have it. The caller calls end.
func (b *bench) grown(ctx context.Context, o *origin, stride int) (v *vm.VM, end func(), err error) {
	dir, err := os.MkdirTemp("", "ramjet-bench-vm-")
	if err != nil {
		return nil, nil, err
	}
	pid := 0
	end = func() {
		if pid != 0 {
			kill(pid)
		}
		os.RemoveAll(dir)
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	if err := warm(o.image); err != nil {
		return nil, nil, err
	}
	var r restore.Result
	args := append([]string{"restore", "--detach", "--prefetch", "off", o.image, "--", o.v.Program}, o.v.ArgsIn(dir)...)
	if _, err := b.ramjet(ctx, &r, args...); err != nil {
		return nil, nil, err
	}
	pid = r.PID
	if v, err = vm.Attach(ctx, vm.SerialIn(dir), vm.QMPIn(dir)); err != nil {
		return nil, nil, err
	}
	err = v.Touch(b.dirt(), stride)
	v.Close()
	time.Sleep(time.Second) // for what a guest does after a gap in time
	return v, end, errors.Join(err, ctx.Err())
}

// dirt is a hundredth of the guest's memory, in pages.
func (b *bench) dirt() int { return int(b.size / 100 / 4096) }
