// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// Prefetch says whether the pages of an instantly restored VM are brought into the page cache behind it.
type Prefetch string

// PrefetchOn is the default. PrefetchWait has Restore return only when all pages are there.
const (
	PrefetchOn   Prefetch = "on"
	PrefetchOff  Prefetch = "off"
	PrefetchWait Prefetch = "wait"
)

// Prefetching is the work of an attendant, since ramjet has gone when the VM that it restored with --detach has
// hardly begun. It reads what the image stores of the mapped blocks, what was
// last needed first if the image knows that, else in the order of addresses; what is in the page cache already it does not
// read. It is nicer than anybody, and ends when it is done, or when the VM does.
//
// Where the pages would take more than half of the memory that is available, on the host and in the control groups that this process is
// in, it reads only so many: the guest fetches the others when it needs them, and nobody has to make room for pages that it may never need.

// Prefetcher is to be registered in main (attendant.Main).
var Prefetcher = attendant.Kind{Name: "ramjet-prefetch", Run: prefetcher, Terminable: true}

// prefetchOrder is the process's only order. Its first file is the image, the second the base of a diff.
type prefetchOrder struct {
	PID    int
	Base   bool
	Blocks []string // that are mapped
}

// prefetched is what the process says when it is done.
type prefetched struct {
	Bytes   int64 // that were not in the page cache
	Partial bool  // there was no room for all
}

// prefetch starts the process. With PrefetchWait it returns when the work is done, or ctx ends: the work goes on then.
func (r *restore) prefetch(ctx context.Context, pid int) (*prefetched, error) {
	order := prefetchOrder{PID: pid, Base: r.image.Base != nil}
	for _, b := range r.image.Blocks {
		if r.outside[b.Name] {
			order.Blocks = append(order.Blocks, b.Name)
		}
	}
	p, err := Prefetcher.Start(nil, r.launch.Files...)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.Order(order); err != nil || r.o.Prefetch != PrefetchWait {
		return nil, err
	}
	defer context.AfterFunc(ctx, p.Close)()
	var done prefetched
	err = p.Answer(&done)
	switch {
	case err == nil:
		return &done, nil
	case ctx.Err() != nil:
		return nil, nil
	case p.Err() != nil:
		return nil, p.Err()
	}
	return nil, err
}

// prefetcher is what the process does. Its exit status is all that it can say of an error.
func prefetcher(in *attendant.Orders) int {
	beNice()
	var order prefetchOrder
	b, err := in.Next()
	if err == nil {
		err = b.Decode(&order)
	}
	if err != nil {
		return 1
	}
	done, err := order.run()
	if err != nil {
		return 1
	}
	_ = attendant.Answer(done) // nobody reads it unless Restore waits
	return 0
}

// beNice lets everybody else go first. The kernel divides processors among sessions before it looks at who is nice within one, and this
// process has a session of its own (sched(7), the autogroup feature); where it does not, there is no such file.
func beNice() {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	_ = os.WriteFile("/proc/self/autogroup", []byte("19"), 0)
}

func (o prefetchOrder) run() (done prefetched, err error) {
	img := &image.Image{}
	if img.File, err = image.Inherited(attendant.FirstFile); err == nil && o.Base {
		img.Base, err = image.Inherited(attendant.FirstFile + 1)
	}
	if err != nil {
		return done, err
	}
	vm, err := unix.PidfdOpen(o.PID, 0)
	if err != nil {
		return done, err
	}
	available, _ := sys.AvailableMemory("/")
	p := &prefetching{vm: vm, room: available / 2, buf: make([]byte, image.PrefetchUnit)}
	for _, hot := range []bool{true, false} {
		for _, name := range o.Blocks {
			i := img.Index(name)
			if i < 0 {
				continue
			}
			sources, err := img.Sources(i)
			if err != nil {
				return p.done, err
			}
			if err := p.block(sources[0], img.File, i, hot); err != nil {
				return p.done, err
			}
		}
	}
	return p.done, nil
}

// prefetching is one under way.
type prefetching struct {
	vm   int   // pidfd
	room int64 // bytes that may still be read
	buf  []byte
	done prefetched
}

var errVMEnded = errors.New("the VM has ended")

// block reads what is wanted of one block: the pages that were hot when the image was saved, or the others.
func (p *prefetching) block(s image.Source, img *image.File, i int, hot bool) error {
	b := s.Image.Blocks[s.Block]
	first := img.Hot(i)
	if hot && first == nil {
		return nil
	}
	for start, end := range s.Pages.Runs(b.Pages()) {
		for at := start * b.PageSize; at < end*b.PageSize; {
			next := min((at/image.PrefetchUnit+1)*image.PrefetchUnit, end*b.PageSize)
			if first.Has(at) == hot {
				if err := p.read(s.Image.Descriptor, b.PagesOffset+at, next-at); err != nil {
					return err
				}
			}
			at = next
		}
	}
	return nil
}

func (p *prefetching) read(f *os.File, off, n int64) error {
	if ended(p.vm) {
		return errVMEnded
	}
	var stat unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &stat, 0)
	if err == nil && int64(stat.Cache) >= n/mappedram.PageSize {
		return nil
	}
	if p.room < n {
		p.done.Partial = true
		return nil
	}
	p.room -= n
	p.done.Bytes += n
	_, err = f.ReadAt(p.buf[:n], off)
	return err
}

func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// prefetchBehind is what Restore does when the guest runs. A VM without it is a VM all the same.
func (r *restore) prefetchBehind(ctx context.Context, v *VM) {
	if r.o.Mode == Eager {
		v.ResidentSeconds = v.RunningSeconds
		return
	}
	if r.o.Prefetch == PrefetchOff || len(r.launch.Files) == 0 {
		return
	}
	done, err := r.prefetch(ctx, v.PID)
	if err != nil {
		r.o.log("no prefetch: %v", err)
	}
	if done != nil && !done.Partial {
		v.ResidentSeconds = time.Since(r.o.Began).Seconds()
	}
}
