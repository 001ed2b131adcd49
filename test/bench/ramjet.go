// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/ramjet-vm/ramjet/snapshot"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// ramjet runs the program, reads its JSON result, and says what it took.
func (b *bench) ramjet(ctx context.Context, result any, args ...string) (Sample, error) {
	var out, stderr bytes.Buffer
	c := exec.CommandContext(ctx, b.Program, append([]string{args[0], "--json"}, args[1:]...)...)
	c.Stdout, c.Stderr = &out, &stderr
	err := c.Run()
	if err != nil {
		return Sample{}, errors.New(strings.TrimSpace(strings.TrimPrefix(stderr.String(), "ramjet: ")))
	}
	s := Sample{CPU: (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()}
	if u, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.Memory = u.Maxrss << 10
	}
	return s, json.Unmarshal(out.Bytes(), result)
}

func (b *bench) ramjetSave(ctx context.Context, v *vm.VM) (r snapshot.SaveResult, s Sample, err error) {
	os.Remove(b.image)
	settle()
	s, err = b.ramjet(ctx, &r, "save", "--qmp", v.QMP, b.image)
	return r, s, err
}

func ramjetSample(ctx context.Context, b *bench, v *vm.VM) (Sample, error) {
	r, s, err := b.ramjetSave(ctx, v)
	if err != nil {
		return s, err
	}
	s.Pause, s.Total, s.Durable, s.Bytes = r.PauseSeconds, r.SaveSeconds, r.DurableSeconds, r.BytesStored
	s.Cache, err = cached(b.image)
	return s, err
}

// restore measures a restore of an image that is not in the page cache. The VM is killed when it runs.
func restore(backend vm.Backend, mode string) func(context.Context, *bench) (Sample, error) {
	return func(ctx context.Context, b *bench) (Sample, error) {
		v, err := b.loadable(ctx, backend)
		if err != nil {
			return Sample{}, err
		}
		return b.restoreOnce(ctx, v, b.image, mode, b.stored)
	}
}

func (b *bench) restoreOnce(ctx context.Context, v *vm.VM, image, mode string, bytes int64) (Sample, error) {
	dir, err := os.MkdirTemp("", "ramjet-bench-vm-")
	if err != nil {
		return Sample{}, err
	}
	defer os.RemoveAll(dir)
	settle()
	var r snapshot.RestoreResult
	args := append([]string{"restore", "--detach", "--mode", mode, image, "--", v.Program}, v.ArgsIn(dir)...)
	s, err := b.ramjet(ctx, &r, args...)
	if err != nil {
		return s, err
	}
	defer kill(r.PID)
	s.Total, s.Bytes = r.RunningSeconds, bytes
	s.Cache, err = cached(image)
	return s, err
}

// loadable is a guest whose image, not cached, lies at b.image.
func (b *bench) loadable(ctx context.Context, backend vm.Backend) (*vm.VM, error) {
	v, err := b.guest(ctx, backend)
	if err != nil {
		return nil, err
	}
	r, _, err := b.ramjetSave(ctx, v)
	if err != nil {
		return nil, err
	}
	b.stored = r.BytesStored
	if err := evict(b.image); err != nil {
		return nil, err
	}
	if n, err := cached(b.image); err != nil || n > r.BytesStored/100 {
		return nil, errors.Join(err, fmt.Errorf("%d bytes of the image stay in the page cache: a cold load cannot be measured", n))
	}
	settle()
	return v, nil
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
