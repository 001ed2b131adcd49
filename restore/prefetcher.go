// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/internal/sys"
)

// The prefetcher is a process of its own (an attendant), since ramjet itself ends as soon as a VM that was restored with --detach runs.
// It reads what the image stores of the mapped blocks into the page cache: the pages that the saved VM used last, if the image
// records them, then the others, each in the order of addresses. Pages that are in the page cache already are not read. The process
// ends when it is done, or when the VM ends.
//
// It reads at most half as much as there is available memory (sys.AvailableMemory). The guest fetches the other pages when it needs
// them: nothing is pushed out of memory for pages that it may never need.

// Prefetcher is to be registered in main (attendant.Main).
var Prefetcher = attendant.Kind{Name: "ramjet-prefetch", Run: prefetcher, Terminable: true}

// prefetchOrder is the process's only order. Its first file is the image, the second the base of a diff.
type prefetchOrder struct {
	PID    int
	Base   bool
	Blocks []string // that are mapped
}

// prefetched is what the process answers when it is done.
type prefetched struct {
	Bytes   int64 // how many were read: those that were not in the page cache
	Partial bool  // too little memory is available for all
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

// beNice gives this process the lowest priority. The kernel divides processor time among sessions before it looks at nice values within
// one, and this process is a session of its own (sched(7), the autogroup feature). Without that feature there is no such file.
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

// prefetching is a prefetch under way.
type prefetching struct {
	vm   int    // pidfd
	room int64  // how many bytes may still be read
	buf  []byte // of image.PrefetchUnit
	done prefetched
}

var errVMEnded = errors.New("the VM has ended")

// block reads pages of block i of the image: those that were hot when it was saved, or the others. s is where the mapped ones are.
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

// read brings the n bytes at off into the page cache, unless they are there, or there is no room for them.
func (p *prefetching) read(f *os.File, off, n int64) error {
	if ended(p.vm) {
		return errVMEnded
	}
	if directio.Cached(f, off, n) {
		return nil
	}
	if p.room < n {
		p.done.Partial = true
		return nil
	}
	p.room -= n
	p.done.Bytes += n
	_, err := f.ReadAt(p.buf[:n], off)
	return err
}

// ended reports whether the process has ended.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
