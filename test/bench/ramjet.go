// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// ramjet runs the program, reads its JSON result, and says what it took. There may be a result beside an error.
func (b *bench) ramjet(ctx context.Context, result any, args ...string) (s Sample, err error) {
	var out, stderr bytes.Buffer
	c := exec.CommandContext(ctx, b.Program, append([]string{args[0], "--json"}, args[1:]...)...)
	c.Stdout, c.Stderr = &out, &stderr
	if err := c.Start(); err != nil {
		return s, err
	}
	peak := watchPeak(c.Process.Pid)
	err = c.Wait()
	s.Memory, s.CPU = peak(), (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()
	if err != nil {
		err = errors.New(strings.TrimSpace(strings.TrimPrefix(stderr.String(), "ramjet: ")))
	}
	if out.Len() > 0 {
		err = errors.Join(err, json.Unmarshal(out.Bytes(), result))
	}
	return s, err
}

// ramjetSave saves to b.image.
func (b *bench) ramjetSave(ctx context.Context, v *vm.VM, flags ...string) (r save.Result, s Sample, err error) {
	os.Remove(b.image)
	r, s, err = b.saveTo(ctx, v, b.image, flags...)
	return r, s, err
}

// saveTo saves to where nothing is.
func (b *bench) saveTo(ctx context.Context, v *vm.VM, image string, flags ...string) (r save.Result, s Sample, err error) {
	b.settle()
	s, err = b.ramjet(ctx, &r, append([]string{"save", "--qmp", v.QMP, image}, flags...)...)
	if err != nil {
		return r, s, err
	}
	s.Pause, s.Total, s.Durable, s.Bytes = r.PauseSeconds, r.SaveSeconds, r.DurableSeconds, r.BytesStored
	s.Cache, err = cached(image)
	return r, s, err
}

// saved measures a save with these flags.
func saved(flags ...string) func(context.Context, *bench, *vm.VM) (Sample, error) {
	return func(ctx context.Context, b *bench, v *vm.VM) (Sample, error) {
		_, s, err := b.ramjetSave(ctx, v, flags...)
		return s, err
	}
}
