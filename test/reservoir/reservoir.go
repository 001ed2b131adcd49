// SPDX-License-Identifier: Apache-2.0

// Package reservoir has memory ready for a load that is to be measured.
package reservoir

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Reservoir is memory that this process has taken, and gives back piece by piece as a load takes it. Where the machine is a
// virtual one, its host may take free memory away (free page reporting, virtio_balloon) and find it again when it is
// touched, which takes longer than the load itself and never as long: a load would measure the host. What has just been given back is what
// the kernel hands out next.
type Reservoir struct {
	mem   []byte
	given int    // bytes of mem
	base  uint64 // bytes free when all of it was taken
	stop  chan struct{}
	done  sync.WaitGroup
}

// Reported is how long it takes until a virtual machine begins to give its host what has become free, which keeps both busy
// (PAGE_REPORTING_DELAY, two seconds): the page cache of an image that was evicted, the memory of a guest that was killed.
const Reported = 2200 * time.Millisecond

// cushion is how much is free for the load to take at any time, and drop how much is given back at a time, in bytes: many huge pages.
const (
	cushion = 512 << 20
	drop    = 64 << 20
)

// Fill takes memory for a load that will fill so many bytes.
func Fill(bytes int64) (*Reservoir, error) {
	mem, err := unix.Mmap(-1, 0, int(bytes+cushion+drop)&^(drop-1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("no %d MiB of memory to load into: %w", bytes>>20, err)
	}
	unix.Madvise(mem, unix.MADV_HUGEPAGE) // faster; what cannot have them goes without
	if err := unix.Madvise(mem, unix.MADV_POPULATE_WRITE); err != nil {
		unix.Munmap(mem)
		return nil, fmt.Errorf("no %d MiB of free memory to load into: %w", bytes>>20, err)
	}
	r := &Reservoir{mem: mem, base: freeMemory(), stop: make(chan struct{})}
	r.give() // not when the load already runs
	r.done.Add(1)
	go r.run()
	return r, nil
}

// run keeps as much free as there was, and the cushion.
func (r *Reservoir) run() {
	defer r.done.Done()
	for len(r.mem) > r.given {
		select {
		case <-r.stop:
			return
		case <-time.After(time.Millisecond):
			r.give()
		}
	}
}

// give gives back what is missing.
func (r *Reservoir) give() {
	for r.given < len(r.mem) && freeMemory() < r.base+cushion {
		unix.Madvise(r.mem[r.given:r.given+drop], unix.MADV_DONTNEED)
		r.given += drop
	}
}

// Close gives everything back: when the load is measured.
func (r *Reservoir) Close() {
	close(r.stop)
	r.done.Wait()
	unix.Munmap(r.mem)
}

// freeMemory is what the machine has free, in bytes, the page cache not counted.
func freeMemory() uint64 {
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) != nil {
		return 0
	}
	return uint64(s.Freeram) * uint64(s.Unit)
}
