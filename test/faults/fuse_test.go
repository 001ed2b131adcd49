// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"io"
	"log"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// rules say what goes wrong on a fuseDisk.
type rules struct {
	written atomic.Int64 // bytes so far

	writeFails syscall.Errno // once failAt bytes are written
	failAt     int64
	fsync      syscall.Errno
	rename     syscall.Errno
}

// node is a file or directory in a directory of another file system.
type node struct {
	fs.LoopbackNode
	rules *rules
}

var (
	_ fs.NodeWriter  = (*node)(nil)
	_ fs.NodeFsyncer = (*node)(nil)
	_ fs.NodeRenamer = (*node)(nil)
	_ fs.NodeCreater = (*node)(nil)
	_ fs.NodeOpener  = (*node)(nil)
)

// handle is an open file that the kernel has to ask us for, since it does not know the descriptor behind it (FOPEN_PASSTHROUGH).
type handle struct {
	fs.FileReader
	fs.FileWriter
	fs.FileFsyncer
	fs.FileReleaser
	fs.FileLseeker
}

func asHandle(f fs.FileHandle) fs.FileHandle {
	if f == nil {
		return nil
	}
	return &handle{f.(fs.FileReader), f.(fs.FileWriter), f.(fs.FileFsyncer), f.(fs.FileReleaser), f.(fs.FileLseeker)}
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, f, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, asHandle(f), fuseFlags, errno
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	return asHandle(f), fuseFlags, errno
}

func (n *node) Write(ctx context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if n.rules.written.Add(int64(len(data))) > n.rules.failAt && n.rules.writeFails != 0 {
		return 0, n.rules.writeFails
	}
	return f.(fs.FileWriter).Write(ctx, data, off)
}

func (n *node) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	if n.rules.fsync != 0 {
		return n.rules.fsync
	}
	if s, ok := f.(fs.FileFsyncer); ok {
		return s.Fsync(ctx, flags)
	}
	return 0
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if n.rules.rename != 0 {
		return n.rules.rename
	}
	return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

// fuseDisk mounts a file system in this process, one that cannot make files without names.
func fuseDisk(t *testing.T, r *rules) (dir string) {
	t.Helper()
	dir = t.TempDir()
	var st syscall.Stat_t
	under := t.TempDir()
	do(t, syscall.Stat(under, &st))
	root := &fs.LoopbackRoot{Path: under, Dev: uint64(st.Dev)}
	//lint:ignore SA1019 the one node type here needs no wrapping of children
	root.NewNode = func(root *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &node{fs.LoopbackNode{RootData: root}, r}
	}
	top := &node{fs.LoopbackNode{RootData: root}, r}
	root.RootNode = top
	server, err := fs.Mount(dir, top, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faults", Logger: log.New(io.Discard, "", 0)}})
	if err != nil {
		t.Skipf("cannot mount a FUSE file system: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return dir
}
