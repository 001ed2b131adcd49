// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/test/reservoir"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// load is an image that the rows which load measure with. It is made anew in each round, as what they compare with is.
type load struct {
	v      *vm.VM // of which it is
	image  string
	stored int64
	round  int
}

// load has the image of a guest ready, in the page cache if it is to be warm, and not there at all if not.
func (b *bench) load(ctx context.Context, backend vm.Backend, inCache bool) (*load, error) {
	l := b.loads[backend]
	if l == nil || l.round != b.round {
		v, err := b.guest(ctx, backend)
		if err != nil {
			return nil, err
		}
		l = &load{v: v, image: filepath.Join(b.dir, "load-"+backend.String()), round: b.round}
		os.Remove(l.image)
		r, _, err := b.saveTo(ctx, v, l.image)
		if err != nil {
			return nil, err
		}
		l.stored = r.BytesStored
		b.loads[backend] = l
	}
	if inCache {
		return l, warm(l.image)
	}
	return l, evict(l.image)
}

// beforeLoad has the machine do nothing else, and have memory for what loads so many bytes: for the guest, and as much for the page cache.
func (b *bench) beforeLoad(bytes int64) (*reservoir.Reservoir, error) {
	b.still()
	b.settle()
	return reservoir.Fill(2 * bytes)
}

// restoreVM measures a restore. The VM is killed when it runs.
func restoreVM(backend vm.Backend, inCache bool, flags ...string) measure {
	return func(ctx context.Context, b *bench) (Sample, error) {
		l, err := b.load(ctx, backend, inCache)
		if err != nil {
			return Sample{}, err
		}
		s, err := b.restoreOnce(ctx, l, flags...)
		if s.Bytes != 0 {
			s.Bytes = l.stored
		}
		return s, err
	}
}

// restoreOnce measures until the guest runs or, if the restore waits for that, until all of its memory is there. Bytes is 0 if nothing was read till then,
// else something else.
func (b *bench) restoreOnce(ctx context.Context, l *load, flags ...string) (Sample, error) {
	dir, err := os.MkdirTemp("", "ramjet-bench-vm-")
	if err != nil {
		return Sample{}, err
	}
	defer os.RemoveAll(dir)
	memory, err := b.beforeLoad(l.stored)
	if err != nil {
		return Sample{}, err
	}
	defer memory.Close()
	var r restore.Result
	args := append(append([]string{"restore", "--detach"}, flags...), l.image, "--", l.v.Program)
	s, err := b.ramjet(ctx, &r, append(args, l.v.ArgsIn(dir)...)...)
	if err != nil {
		return s, err
	}
	defer kill(r.PID)
	s.Total, s.Load = r.RunningSeconds, r.LoadSeconds
	if r.Mode == restore.Eager || r.ResidentSeconds > 0 {
		s.Total, s.Bytes = max(r.RunningSeconds, r.ResidentSeconds), 1
	}
	s.Cache, err = cached(l.image)
	return s, err
}

// instantSized measures an instant restore of a guest of that size, from an image of its own that is not cached.
func instantSized(size string) measure {
	return func(ctx context.Context, b *bench) (Sample, error) {
		image := filepath.Join(b.dir, "instant-"+size)
		v, err := b.sized(ctx, size)
		if err != nil {
			return Sample{}, err
		}
		if _, err := os.Stat(image); err != nil {
			if _, _, err := b.saveTo(ctx, v, image); err != nil {
				return Sample{}, err
			}
		}
		if err := evict(image); err != nil {
			return Sample{}, err
		}
		return b.restoreOnce(ctx, &load{v: v, image: image})
	}
}

func kill(pid int) {
	p, err := os.FindProcess(pid)
	if err == nil {
		p.Kill()
	}
	// It is not our child: wait until it is gone, so that its memory is free for the next row.
	for syscall.Kill(pid, 0) == nil && !zombie(pid) {
		pause()
	}
}
