// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk is the disk under test. Its blocks have the same contents as pages do,
// and the table of their generations is in memory: a disk and a memory that do
// not belong together do not match.
type disk struct {
	f     *os.File
	seed  uint64
	table []uint32 // generation of each block, 0: never written
	block *page    // aligned, for O_DIRECT
	bytes []byte   // the same
}

// mostBlocks bounds the table: 4 GiB of disk are under test at most.
const mostBlocks = 1 << 20

// openDisk opens a disk past the guest's page cache, so that what it reads is
// what the device has.
func openDisk(name string, seed uint64) (*disk, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	return &disk{
		f: f, seed: ^seed, bytes: b, block: (*page)(unsafe.Pointer(&b[0])),
		table: make([]uint32, min(size/pageSize, mostBlocks)),
	}, nil
}

func (d *disk) size() int64 {
	n, _ := d.f.Seek(0, io.SeekEnd)
	return n
}

// write gives n blocks from first their next generation, and returns when they
// are on the disk.
func (d *disk) write(first, n int) error {
	if first > len(d.table) || n > len(d.table)-first {
		return fmt.Errorf("blocks %d+%d are not in the %d of the disk", first, n, len(d.table))
	}
	for i := first; i < first+n; i++ {
		d.table[i]++
		d.block.write(d.seed, uint64(i), d.table[i])
		if _, err := d.f.WriteAt(d.bytes, int64(i)*pageSize); err != nil {
			return err
		}
	}
	return d.f.Sync()
}

// check reads every block that was ever written.
func (d *disk) check() (report, error) {
	r := report{first: -1}
	for i, generation := range d.table {
		if generation == 0 {
			continue
		}
		if _, err := d.f.ReadAt(d.bytes, int64(i)*pageSize); err != nil {
			return r, err
		}
		r.pages++
		if !d.block.is(d.seed, uint64(i), generation) {
			if r.wrong++; r.first < 0 {
				r.first = i
			}
		}
		r.sum = r.sum<<1 | r.sum>>63
		r.sum += d.block.sum()
	}
	return r, nil
}
