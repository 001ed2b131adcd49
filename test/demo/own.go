// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// ownMemory saves and brings back a piece of shared memory with the engine that does it for a guest's.
func (d *demo) ownMemory(ctx context.Context) error {
	mem, err := newMemory(memory << 20)
	if err != nil {
		return err
	}
	defer mem.Close()
	d.say("Filling %d of %d MiB ...", fill, memory)
	if err := fillMemory(mem, fill<<20); err != nil {
		return err
	}
	image, err := d.saveOwn(ctx, mem)
	if err != nil {
		return err
	}
	defer image.Close()
	if err := d.mapOwn(image); err != nil {
		return err
	}
	if err := d.loadOwn(ctx, image); err != nil {
		return err
	}
	d.say("\nNothing was lost.")
	return nil
}

func newMemory(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("ramjet-demo", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "memory")
	return f, f.Truncate(size)
}

// fillMemory makes each page one that can be told from all others.
func fillMemory(f *os.File, n int64) error {
	p := make([]byte, 1<<20)
	for at := int64(0); at < n; at += int64(len(p)) {
		for i := 0; i < len(p); i += 8 {
			binary.LittleEndian.PutUint64(p[i:], word(at+int64(i)))
		}
		if _, err := f.WriteAt(p, at); err != nil {
			return err
		}
	}
	return nil
}

func word(at int64) uint64 { return (uint64(at) + 1) * 0x9e3779b97f4a7c15 }

// checkMemory says whether p is as fillMemory left it.
func checkMemory(p []byte, filled int64) error {
	for i := 0; i+8 <= len(p); i += 8 {
		want := uint64(0)
		if int64(i) < filled {
			want = word(int64(i))
		}
		if binary.LittleEndian.Uint64(p[i:]) != want {
			return fmt.Errorf("the memory is wrong at %d", i)
		}
	}
	return nil
}

func (d *demo) saveOwn(ctx context.Context, mem *os.File) (image *os.File, err error) {
	f, err := directio.Reopen{File: mem}.Open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	m, err := guestmem.OpenFile(f, 0, memory<<20, nil)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	layout, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "none", Capabilities: []string{"mapped-ram"}},
		[]mappedram.Block{{Name: "ram", Length: memory << 20}})
	if err != nil {
		return nil, err
	}
	if image, err = os.OpenFile(d.image, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	io, err := directio.Chooser{}.Choose(directio.Path(d.image), os.O_WRONLY)
	if err != nil {
		return image, err
	}
	began := time.Now()
	s := &transfer.Save{Layout: layout, Memory: []guestmem.Memory{m}, Image: directio.Path(d.image), Params: transfer.Params{Direct: io.Direct}}
	err = errors.Join(image.Truncate(layout.RAMEnd), s.Run(ctx), layout.WriteHeaders(image))
	if err == nil {
		err = layout.WriteBitmap(image, 0, s.Stored[0])
	}
	if err == nil {
		_, err = layout.WriteTail(image, nil, nil)
	}
	if err = errors.Join(err, layout.WriteMagic(image), image.Sync()); err != nil {
		return image, err
	}
	took := time.Since(began)
	d.say("saved: %d MiB in %.3f s, %.0f MB/s, %s I/O, %d pages stored", s.Progress.Bytes.Load()>>20, took.Seconds(),
		float64(s.Progress.Bytes.Load())/1e6/took.Seconds(), io, s.Stored[0].Count())
	return image, nil
}

// mapOwn is what an instant restore does with a guest's memory.
func (d *demo) mapOwn(image *os.File) error {
	began := time.Now()
	m, err := openedAgain(image)
	if err != nil {
		return err
	}
	p, err := unix.Mmap(int(image.Fd()), m.Blocks[0].PagesOffset, memory<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(p)
	took := time.Since(began)
	if err := checkMemory(p, fill<<20); err != nil {
		return err
	}
	d.say("instant: mapped from the image in %.6f s; all of it is right", took.Seconds())
	return nil
}

func openedAgain(image *os.File) (*mappedram.Image, error) {
	st, err := image.Stat()
	if err != nil {
		return nil, err
	}
	return mappedram.Open(image, st.Size())
}

// loadOwn reads all of it by parallel channels.
func (d *demo) loadOwn(ctx context.Context, image *os.File) error {
	began := time.Now()
	m, err := openedAgain(image)
	if err != nil {
		return err
	}
	stored, err := m.Bitmap(0)
	if err != nil {
		return err
	}
	f, err := newMemory(memory << 20)
	if err != nil {
		return err
	}
	to, err := guestmem.OpenFile(f, 0, memory<<20, nil)
	if err != nil {
		return err
	}
	defer to.Close()
	io, err := directio.Chooser{}.Choose(directio.Path(d.image), os.O_RDONLY)
	if err != nil {
		return err
	}
	l := &transfer.Load{Image: directio.Path(d.image), Params: transfer.Params{Direct: io.Direct},
		Blocks: []transfer.LoadBlock{{Block: m.Blocks[0], Stored: stored, Memory: to}}}
	if err := l.Run(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	p, err := unix.Mmap(int(f.Fd()), 0, memory<<20, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(p)
	if err := checkMemory(p, fill<<20); err != nil {
		return err
	}
	d.say("eager: %d MiB read in %.3f s; all of it is right", l.Progress.Bytes.Load()>>20, took.Seconds())
	return nil
}
