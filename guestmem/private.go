// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// private is anonymous memory of another process.
type private struct {
	pid   int
	addr  uint64
	size  int64
	pages *pagemap
	calls *sys.Calls
	mem   *os.File // /proc/PID/mem, if it is read that way (ByDescriptor)
}

func newPrivate(pid int, addr uint64, size int64, calls *sys.Calls) (*private, error) {
	p := &private{pid: pid, addr: addr, size: size, calls: sys.Of(calls)}
	// Whether it may be read is better known before a guest is stopped. Reading a byte of a
	// page that does not exist yet costs the guest one mapping of the zero page.
	var probe [1]byte
	if err := p.Read(probe[:], 0); err != nil {
		return nil, err
	}
	pages, err := openPagemap(pid, calls)
	if err != nil {
		return nil, err
	}
	p.pages = pages
	return p, nil
}

func (p *private) Size() int64 { return p.size }

func (p *private) Populated(within Range) iter.Seq2[Range, error] {
	return p.pages.pages(p.addr, within, populated)
}

func (p *private) Read(buf []byte, off int64) error {
	if p.mem != nil {
		return p.pread(buf, off)
	}
	return p.transfer("read", p.calls.ReadVM, buf, off)
}

func (p *private) Write(buf []byte, off int64) error {
	return p.transfer("write", p.calls.WriteVM, buf, off)
}

type vmCall func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error)

// transfer moves all of buf, since process_vm_readv(2) may stop early without an error.
func (p *private) transfer(verb string, call vmCall, buf []byte, off int64) error {
	if err := checkRange(buf, off, p.size); err != nil {
		return err
	}
	for len(buf) > 0 {
		local := []unix.Iovec{{Base: &buf[0]}}
		local[0].SetLen(len(buf))
		remote := []unix.RemoteIovec{{Base: uintptr(p.addr) + uintptr(off), Len: len(buf)}}
		n, err := sys.RetryValue(func() (int, error) { return call(p.pid, local, remote, 0) })
		switch {
		case errors.Is(err, unix.ESRCH):
			return fmt.Errorf("the process %d is gone", p.pid)
		case err != nil:
			return permission(p.pid, fmt.Errorf("cannot %s the memory of process %d at %#x: %w", verb, p.pid, p.addr+uint64(off), err))
		case n <= 0:
			return fmt.Errorf("cannot %s the memory of process %d at %#x", verb, p.pid, p.addr+uint64(off))
		}
		buf, off = buf[n:], off+int64(n)
	}
	return nil
}

// ByDescriptor opens /proc/PID/mem. The kernel asks for permission when it is opened, and no more when it is read (mem_open).
func (p *private) ByDescriptor() (err error) {
	p.mem, err = os.Open(fmt.Sprintf("/proc/%d/mem", p.pid))
	return permission(p.pid, err)
}

// pread is Read from /proc/PID/mem.
func (p *private) pread(buf []byte, off int64) error {
	if err := checkRange(buf, off, p.size); err != nil {
		return err
	}
	n, err := sys.Whole(p.calls.Pread, int(p.mem.Fd()), buf, int64(p.addr)+off)
	switch {
	case err != nil:
		return fmt.Errorf("cannot read the memory of process %d at %#x: %w", p.pid, p.addr+uint64(off)+uint64(n), err)
	case n < len(buf):
		return fmt.Errorf("the process %d is gone", p.pid)
	}
	return nil
}

func (p *private) Close() error {
	if p.mem != nil {
		return errors.Join(p.pages.Close(), p.mem.Close())
	}
	return p.pages.Close()
}

// privateFile is a copy-on-write mapping of a file in another process.
type privateFile struct {
	private
	f       file
	backing Backing
}

func newPrivateFile(pid int, addr uint64, size int64, f *os.File, calls *sys.Calls, b Backing) (*privateFile, error) {
	p, err := newPrivate(pid, addr, size, calls)
	if err != nil {
		f.Close()
		return nil, err
	}
	// By the file itself: the memory map tells another device on btrfs (show_map_vma).
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) == nil {
		b.Device, b.Inode = uint64(st.Dev), st.Ino
	}
	return &privateFile{private: *p, f: file{f, p.calls}, backing: b}, nil
}

// Populated joins what the file holds with what the process has written over its holes.
func (p *privateFile) Populated(within Range) iter.Seq2[Range, error] {
	return union(p.f.dataRanges(p.backing.Offset, within, false), p.Changed(within))
}

func (p *privateFile) Changed(within Range) iter.Seq2[Range, error] {
	return p.pages.pages(p.addr, within, own)
}

func (p *privateFile) Touched(within Range) iter.Seq2[Range, error] {
	return p.pages.pages(p.addr, within, present)
}

// ReadChanged takes many ranges with one call. Where that ends early the rest is read range by range, which says why.
func (p *privateFile) ReadChanged(buf []byte, ranges []Range) error {
	for len(ranges) > 0 {
		batch := ranges[:min(len(ranges), maxBatch)]
		ranges = ranges[len(batch):]
		total := 0
		remote := make([]unix.RemoteIovec, len(batch))
		for i, r := range batch {
			remote[i] = unix.RemoteIovec{Base: uintptr(p.addr) + uintptr(r.Start), Len: int(r.Len())}
			total += int(r.Len())
			if err := checkRange(buf[total-int(r.Len()):total], r.Start, p.size); err != nil {
				return err
			}
		}
		local := []unix.Iovec{{Base: &buf[0]}}
		local[0].SetLen(total)
		n := 0
		if p.mem == nil {
			var err error
			if n, err = p.calls.ReadVM(p.pid, local, remote, 0); err != nil {
				n = 0
			}
		}
		at := 0
		for _, r := range batch {
			end := at + int(r.Len())
			if end > n {
				if err := p.private.Read(buf[at:end], r.Start); err != nil {
					return err
				}
			}
			at = end
		}
		buf = buf[total:]
	}
	return nil
}

// maxBatch is how many ranges go into one call; the kernel takes 1024 (UIO_MAXIOV).
const maxBatch = 512

func (p *privateFile) Backing() Backing { return p.backing }

// Read takes the process's own pages from it and the others from the file, so that the process's page
// table does not fill with pages that its guest never touched.
func (p *privateFile) Read(buf []byte, off int64) error {
	if err := checkRange(buf, off, p.size); err != nil {
		return err
	}
	at, end := off, off+int64(len(buf))
	fromFile := func(until int64) error {
		if until <= at {
			return nil
		}
		return p.f.read(buf[at-off:until-off], p.backing.Offset+at)
	}
	for c, err := range p.Changed(Range{off, end}) {
		if err == nil {
			err = fromFile(c.Start)
		}
		if err == nil {
			err = p.private.Read(buf[c.Start-off:c.End-off], c.Start)
		}
		if err != nil {
			return err
		}
		at = c.End
	}
	return fromFile(end)
}

func (p *privateFile) Close() error { return errors.Join(p.private.Close(), p.f.Close()) }
