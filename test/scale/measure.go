// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/reservoir"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// sample is one thing measured: medians of the rounds.
type sample struct {
	what     string  // save, diff, eager, instant
	ram      float64 // GiB
	moved    float64 // GB of page data
	channels int     // 0: chosen
	speed    int     // MB/s of the device, 0: as it is
	seconds  float64 // save, diff: until durable; restores: until the guest runs
	pause    float64
	cpu      float64 // processor seconds of ramjet
}

type measurement struct {
	config
	image, diff string
	slow        *throttle
	samples     []sample
}

// dirt is what a guest writes between base and diff, in pages.
var dirt = []int{1 << 10, 1 << 12, 1 << 14}

// guest measures all with a guest of so many MiB.
func (m *measurement) guest(ctx context.Context, size int) error {
	memory := fmt.Sprintf("%dM", size)
	v, err := vm.Start(ctx, vm.Config{Memory: memory, Fill: size * 6 / 10, Append: "transparent_hugepage=never"})
	if err != nil {
		return err
	}
	defer v.Kill()
	for _, speed := range m.speeds {
		if err := m.slow.set(speed); err != nil {
			return err
		}
		if err := m.rounds(sample{what: "save", ram: gib(size), speed: speed}, func() (sample, error) { return m.save(v, m.image) }); err != nil {
			return err
		}
		if err := m.rounds(sample{what: "eager", ram: gib(size), speed: speed}, func() (sample, error) { return m.restore(v, restore.Eager) }); err != nil {
			return err
		}
	}
	if err := m.slow.set(0); err != nil {
		return err
	}
	if err := m.rounds(sample{what: "instant", ram: gib(size)}, func() (sample, error) { return m.restore(v, restore.Instant) }); err != nil {
		return err
	}
	if size == 4096 {
		if err := m.channels(v); err != nil {
			return err
		}
	}
	return m.diffs(ctx, v, size)
}

func gib(mib int) float64 { return float64(mib) / 1024 }

func (m *measurement) channels(v *vm.VM) error {
	for _, n := range []int{1, 2, 4, 8, 16} {
		err := m.rounds(sample{what: "save", ram: 4, channels: n}, func() (sample, error) { return m.save(v, m.image, "--channels", fmt.Sprint(n)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// diffs restores the image instantly and saves what the guest dirties.
func (m *measurement) diffs(ctx context.Context, v *vm.VM, size int) error {
	dir, err := os.MkdirTemp("", "ramjet-scale-vm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var r restore.Result
	if _, err := m.ramjet(&r, append([]string{"restore", "--json", "--detach", "--prefetch=off", m.image, "--", v.Program}, v.ArgsIn(dir)...)...); err != nil {
		return err
	}
	c, err := vm.Connect(ctx, vm.SerialIn(dir), vm.QMPIn(dir))
	if err != nil {
		return err
	}
	defer unix.Kill(r.PID, unix.SIGKILL)
	defer c.Close()
	for _, pages := range dirt {
		if err := c.Touch(pages, 1); err != nil {
			return err
		}
		time.Sleep(time.Second)
		if err := m.rounds(sample{what: "diff", ram: gib(size)}, func() (sample, error) { return m.save(c, m.diff, "--base", m.image) }); err != nil {
			return err
		}
	}
	return nil
}

// rounds measures several times and keeps the medians.
func (m *measurement) rounds(of sample, once func() (sample, error)) error {
	var all []sample
	for range m.config.rounds {
		unix.Sync()
		s, err := once()
		if err != nil {
			return fmt.Errorf("%s of a guest of %g GiB: %w", of.what, of.ram, err)
		}
		all = append(all, s)
	}
	median := func(f func(sample) float64) float64 {
		var v []float64
		for _, s := range all {
			v = append(v, f(s))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	of.moved = median(func(s sample) float64 { return s.moved })
	of.seconds = median(func(s sample) float64 { return s.seconds })
	of.pause = median(func(s sample) float64 { return s.pause })
	of.cpu = median(func(s sample) float64 { return s.cpu })
	m.samples = append(m.samples, of)
	fmt.Fprintf(os.Stderr, "%+v\n", of)
	return nil
}

func (m *measurement) save(v *vm.VM, image string, flags ...string) (s sample, err error) {
	os.Remove(image)
	var r save.Result
	s.cpu, err = m.ramjet(&r, append([]string{"save", "--json", "--qmp", v.QMP, image}, flags...)...)
	s.moved, s.seconds, s.pause = float64(r.BytesStored)/1e9, r.DurableSeconds, r.PauseSeconds
	return s, err
}

// restore restores the image, which is not cached: it was written past the page cache.
func (m *measurement) restore(v *vm.VM, mode restore.Mode) (s sample, err error) {
	dir, err := os.MkdirTemp("", "ramjet-scale-vm-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	f, err := os.Open(m.image)
	if err != nil {
		return s, err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	f.Close()
	if mode == restore.Eager {
		s.moved = m.saved()
		memory, err := m.beforeLoad(s.moved)
		if err != nil {
			return s, err
		}
		defer memory.Close()
	}
	var r restore.Result
	args := append([]string{"restore", "--json", "--detach", "--prefetch=off", "--mode", string(mode), m.image, "--", v.Program}, v.ArgsIn(dir)...)
	s.cpu, err = m.ramjet(&r, args...)
	if err != nil {
		return s, err
	}
	for unix.Kill(r.PID, unix.SIGKILL) == nil {
		time.Sleep(2 * time.Millisecond)
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.PID)); err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
	}
	s.seconds = r.RunningSeconds
	return s, nil
}

// saved is how many GB the image has stored, which is of the last save.
func (m *measurement) saved() (gb float64) {
	for _, of := range m.samples {
		if of.what == "save" {
			gb = of.moved
		}
	}
	return gb
}

// beforeLoad lets what was freed before go to the machine's host, if that wants it, and has memory ready for a load of so many GB.
func (m *measurement) beforeLoad(gb float64) (*reservoir.Reservoir, error) {
	time.Sleep(reservoir.Reported)
	return reservoir.Fill(int64(gb * 1e9))
}

// ramjet runs the program in the group and returns its processor seconds.
func (m *measurement) ramjet(result any, args ...string) (cpu float64, err error) {
	all := m.slow.command(append([]string{m.program}, args...))
	var out, stderr bytes.Buffer
	c := exec.Command(all[0], all[1:]...)
	c.Stdout, c.Stderr = &out, &stderr
	if err := c.Run(); err != nil {
		return 0, errors.New(strings.TrimSpace(stderr.String()))
	}
	cpu = (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()
	return cpu, json.Unmarshal(out.Bytes(), result)
}
