// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ramjet-vm/ramjet/restore"
)

// idle is how long clones have run when their memory is looked at.
const idle = 5 * time.Second

// clone measures until n clones of one image run, which is not in the page cache, and what memory one of them has of its own after so long, if that is
// not 0.
func clone(n int, after time.Duration) measure {
	return func(ctx context.Context, b *bench) (s Sample, err error) {
		o, err := b.origin(ctx, b.Memory)
		if err != nil {
			return s, err
		}
		if err := evict(o.image); err != nil {
			return s, err
		}
		dir, err := os.MkdirTemp("", "ramjet-bench-vm-")
		if err != nil {
			return s, err
		}
		defer os.RemoveAll(dir)
		for i := range n {
			if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o700); err != nil {
				return s, err
			}
		}
		memory, err := b.beforeLoad(b.stored)
		if err != nil {
			return s, err
		}
		defer memory.Close()
		var r restore.CloneResult
		args := []string{"clone", "--detach", "-n", fmt.Sprint(n), o.image, "--", o.v.Program}
		s, err = b.ramjet(ctx, &r, append(args, o.v.ArgsIn(filepath.Join(dir, "{n}"))...)...)
		defer func() {
			for _, c := range r.VMs {
				if c.PID != 0 {
					kill(c.PID)
				}
			}
		}()
		if err != nil {
			return s, err
		}
		s.Total = r.Seconds
		if time.Sleep(after); after > 0 {
			s.Pss = medianPss(r.VMs)
		}
		s.Cache, err = cached(o.image)
		return s, err
	}
}

// medianPss is the proportional set size of one of the processes, the middle one (proc_pid_smaps(5)).
func medianPss(vms []restore.ClonedVM) int64 {
	var all []int64
	for _, c := range vms {
		all = append(all, procKiB(fmt.Sprintf("/proc/%d/smaps_rollup", c.PID), "Pss")<<10)
	}
	slices.Sort(all)
	return all[len(all)/2]
}
