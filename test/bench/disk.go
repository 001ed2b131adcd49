// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
)

// blockSize of the plain loops, in bytes: twice the engine's largest write, since they have only one under way.
const blockSize = 4 << 20

// diskLoop moves b.stored bytes between the file and a buffer of size bytes, which is used over and over if it is smaller.
func (b *bench) diskLoop(size int64, flags int, move func(*directio.File, []byte, int64) (int, error)) (s Sample, err error) {
	buf, err := directio.NewBuffer(int(size))
	if err != nil {
		return s, err
	}
	defer buf.Free()
	rand.NewChaCha8([32]byte{1}).Read(buf)
	f, err := os.OpenFile(b.image, flags|unix.O_DIRECT, 0o600)
	if err != nil {
		return s, err
	}
	d, err := directio.NewFile(f, nil)
	if err != nil {
		return s, err
	}
	defer d.Close()
	b.settle()
	cpu, began := ownCPU(), time.Now()
	for at := int64(0); at < b.stored; at += blockSize {
		from := at % size
		if _, err := move(d, buf[from:from+min(blockSize, b.stored-at)], at); err != nil {
			return s, err
		}
	}
	s.Total = time.Since(began).Seconds()
	err = f.Sync()
	s.Durable, s.CPU, s.Bytes = time.Since(began).Seconds(), ownCPU()-cpu, b.stored
	return s, err
}

func write(f *directio.File, p []byte, at int64) (int, error) { return f.WriteAt(p, at) }
func read(f *directio.File, p []byte, at int64) (int, error)  { return f.ReadAt(p, at) }

// diskWrite writes as many different bytes as a save stores, from as much memory, as a save has to.
func diskWrite(_ context.Context, b *bench) (Sample, error) {
	os.Remove(b.image)
	return b.diskLoop(b.storedBlocks(), os.O_WRONLY|os.O_CREATE, write)
}

// storedBlocks is as much memory as a save stores, in whole blocks.
func (b *bench) storedBlocks() int64 { return (b.stored + blockSize - 1) / blockSize * blockSize }

// diskWriteCached writes the same 4 MiB over and over: the device, or whoever stands behind it, finds them in the processor's cache.
func diskWriteCached(_ context.Context, b *bench) (Sample, error) {
	os.Remove(b.image)
	return b.diskLoop(blockSize, os.O_WRONLY|os.O_CREATE, write)
}

// diskRead reads as many bytes as a save stores into as much memory, which is there already.
func diskRead(_ context.Context, b *bench) (Sample, error) { return b.writeAndRead(b.storedBlocks()) }

// diskReadCached reads them into the same 4 MiB over and over, which stay in the processor's cache.
func diskReadCached(_ context.Context, b *bench) (Sample, error) { return b.writeAndRead(blockSize) }

func (b *bench) writeAndRead(into int64) (Sample, error) {
	os.Remove(b.image)
	if _, err := b.diskLoop(blockSize, os.O_WRONLY|os.O_CREATE, write); err != nil {
		return Sample{}, err
	}
	return b.diskLoop(into, os.O_RDONLY, read)
}

// diskScattered writes as many single pages as a diff of scattered pages stores, as far apart, through the page cache, which is the fastest way to
// do that: what is left of such a diff when it has nothing to read, to compare and to stop.
func diskScattered(_ context.Context, b *bench) (s Sample, err error) {
	os.Remove(b.image)
	page, err := directio.NewBuffer(directio.PageSize)
	if err != nil {
		return s, err
	}
	defer page.Free()
	rand.NewChaCha8([32]byte{1}).Read(page)
	f, err := os.Create(b.image)
	if err != nil {
		return s, err
	}
	defer f.Close()
	b.settle()
	cpu, began := ownCPU(), time.Now()
	for i := range int64(b.dirt()) {
		if _, err := f.WriteAt(page, i*int64(b.scattered())*directio.PageSize); err != nil {
			return s, err
		}
	}
	s.Total = time.Since(began).Seconds()
	err = f.Sync()
	s.Durable, s.CPU, s.Bytes = time.Since(began).Seconds(), ownCPU()-cpu, int64(b.dirt())*directio.PageSize
	return s, err
}

// fioWrite asks fio, with as many writes in flight as Ramjet has channels.
func fioWrite(ctx context.Context, b *bench) (Sample, error) {
	fio, err := exec.LookPath("fio")
	if err != nil {
		return Sample{}, fmt.Errorf("fio is not installed")
	}
	os.Remove(b.image)
	b.settle()
	out, err := exec.CommandContext(ctx, fio, "--name=limit", "--filename="+b.image, "--rw=write", "--bs=4M", "--direct=1",
		fmt.Sprintf("--size=%d", b.stored&^(blockSize-1)), "--ioengine=libaio", "--iodepth=4", "--fallocate=none", "--output-format=json").Output()
	if err != nil {
		return Sample{}, fmt.Errorf("fio: %w", err)
	}
	var r struct {
		Jobs []struct {
			Write struct {
				Bytes   int64 `json:"io_bytes"`
				Runtime int64 `json:"runtime"` // ms
			}
			User float64 `json:"usr_cpu"` // per cent
			Sys  float64 `json:"sys_cpu"`
		}
	}
	text := string(out)
	if i := strings.Index(text, "{"); i > 0 {
		text = text[i:]
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.Jobs) == 0 || r.Jobs[0].Write.Runtime == 0 {
		return Sample{}, fmt.Errorf("fio says nothing useful: %.80q", out)
	}
	j := r.Jobs[0]
	total := float64(j.Write.Runtime) / 1000
	return Sample{Total: total, Bytes: j.Write.Bytes, CPU: total * (j.User + j.Sys) / 100}, nil
}
