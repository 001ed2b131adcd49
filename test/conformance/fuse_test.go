// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"io"
	"log"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// weakDisk is a file system with one file, "image", kept in this process's memory. The kernel hands every read and write of it
// on as it is (FOPEN_DIRECT_IO), and gives what we answer back to the process that made the call: a write of which we take
// half is a pwrite(2) that returns half.
type weakDisk struct {
	fs.Inode
	path string // of the image

	mu   sync.Mutex
	data []byte
	weak weakness
	hits int // calls that were cut short or refused
}

// weakness is what is wrong with one place of a file, a byte at an offset. A transfer that meets it ends there; one that begins
// there fails.
type weakness struct {
	at     int64
	write  bool          // it concerns writes, otherwise reads
	errno  syscall.Errno // of a transfer that begins there; 0: it moves no bytes at all, unless
	passes bool          // it is carried out, which is all that is wrong then: the first came short
	every  bool          // it is the same at every later place, from when it was met on: channels are not in order
}

// weakImage is the file.
type weakImage struct {
	fs.Inode
	d *weakDisk
}

var (
	_ fs.NodeOnAdder   = (*weakDisk)(nil)
	_ fs.NodeOpener    = (*weakImage)(nil)
	_ fs.NodeReader    = (*weakImage)(nil)
	_ fs.NodeWriter    = (*weakImage)(nil)
	_ fs.NodeGetattrer = (*weakImage)(nil)
	_ fs.NodeSetattrer = (*weakImage)(nil)
	_ fs.NodeFsyncer   = (*weakImage)(nil)
)

// OnAdd makes the file.
func (d *weakDisk) OnAdd(ctx context.Context) {
	d.AddChild("image", d.NewPersistentInode(ctx, &weakImage{d: d}, fs.StableAttr{Mode: syscall.S_IFREG}), true)
}

// weaken replaces what is wrong, and forgets what has happened; nil: nothing is.
func (d *weakDisk) weaken(w *weakness) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hits, d.weak = 0, weakness{at: -1}
	if w != nil {
		d.weak = *w
	}
}

func (d *weakDisk) happened() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hits
}

// meet says how many of the n bytes at off are transferred.
func (d *weakDisk) meet(write bool, off, n int64) (int64, syscall.Errno) {
	w := d.weak
	begins := off == w.at || w.every && off > w.at && d.hits > 0
	switch {
	case w.at < 0 || write != w.write || !begins && (off > w.at || off+n <= w.at):
		return n, 0
	case !begins:
		d.hits++
		return w.at - off, 0
	case w.passes:
		return n, 0
	}
	d.hits++
	return 0, w.errno
}

// Open has the kernel keep nothing of the file.
func (f *weakImage) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *weakImage) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n := max(0, min(int64(len(dest)), int64(len(f.d.data))-off))
	n, errno := f.d.meet(false, off, n)
	if errno != 0 {
		return nil, errno
	}
	return fuse.ReadResultData(append([]byte(nil), f.d.data[min(off, int64(len(f.d.data))):][:n]...)), 0
}

func (f *weakImage) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n, errno := f.d.meet(true, off, int64(len(data)))
	if errno != 0 {
		return 0, errno
	}
	f.d.resize(max(int64(len(f.d.data)), off+n))
	copy(f.d.data[off:], data[:n])
	return uint32(n), 0
}

func (d *weakDisk) resize(n int64) {
	d.data = append(d.data[:min(n, int64(len(d.data)))], make([]byte, max(0, n-int64(len(d.data))))...)
}

func (f *weakImage) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	out.Mode, out.Size = syscall.S_IFREG|0o600, uint64(len(f.d.data))
	return 0
}

func (f *weakImage) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if size > 1<<30 {
			return syscall.EFBIG
		}
		f.d.mu.Lock()
		f.d.resize(int64(size))
		f.d.mu.Unlock()
	}
	return f.Getattr(ctx, h, out)
}

// Fsync has nothing to do.
func (f *weakImage) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return 0 }

// newWeakDisk mounts one, on which nothing is wrong yet.
func newWeakDisk(t *testing.T) *weakDisk {
	t.Helper()
	dir := t.TempDir()
	d := &weakDisk{path: filepath.Join(dir, "image"), weak: weakness{at: -1}}
	server, err := fs.Mount(dir, d, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "weak", Logger: log.New(io.Discard, "", 0)}})
	if err != nil {
		t.Skipf("cannot mount a FUSE file system: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return d
}
