// SPDX-License-Identifier: Apache-2.0

// Command demo shows Ramjet's main job on a real Linux guest, or where there is no QEMU on memory of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// Config says what to show.
type Config struct {
	Program string // ramjet
	Dir     string // for the image; "": the temporary directory
	Out     io.Writer
}

// memory and fill of the demonstration's guest, in MiB.
const (
	memory = 1024
	fill   = 600
)

// Run shows it. It returns an error if anything is not as it should be.
func Run(ctx context.Context, c Config) error {
	dir, err := os.MkdirTemp(c.Dir, "ramjet-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{Config: c, image: filepath.Join(dir, "vm.img"), dir: dir}
	if err := vm.Available(); err != nil {
		d.say("No QEMU guest can be started here: %v.", err)
		d.say("So this shows the same with memory of its own.")
		return d.ownMemory(ctx)
	}
	return d.guest(ctx)
}

type demo struct {
	Config
	dir, image string
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

// ramjet runs a command as a user would, and shows it with what it prints.
func (d *demo) ramjet(ctx context.Context, args ...string) error {
	shown := args
	if i := indexOf(args, "--"); i >= 0 {
		shown = append(append([]string{}, args[:i+1]...), "...")
	}
	d.say("\n$ ramjet %s", strings.Join(shown, " "))
	cmd := exec.CommandContext(ctx, d.Program, args...)
	cmd.Stdout, cmd.Stderr = d.Out, d.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ramjet %s: %w", args[0], err)
	}
	return nil
}

func indexOf(words []string, w string) int {
	for i, v := range words {
		if v == w {
			return i
		}
	}
	return -1
}

// guest is the real thing.
func (d *demo) guest(ctx context.Context) error {
	d.say("Starting a Linux guest in QEMU, %d MiB of memory of which %d MiB will be in use ...", memory, fill)
	v, err := vm.Start(ctx, vm.Config{Memory: fmt.Sprintf("%dM", memory), Fill: fill, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		return err
	}
	defer v.Kill()
	d.say("It is up after %.1f s, and works: it counts, and rewrites its memory at 20 MiB/s.", v.Boot.Seconds())
	if err := v.Dirty(20); err != nil {
		return err
	}
	time.Sleep(time.Second)
	before, err := v.Count()
	if err != nil {
		return err
	}
	d.say("Its counter is at %d.", before)
	if err := d.ramjet(ctx, "save", "--qmp", v.QMP, d.image); err != nil {
		return err
	}
	after, err := v.Count()
	if err != nil {
		return err
	}
	d.say("The guest went on: its counter is at %d. Now QEMU is killed.", after)
	v.Kill()
	for _, mode := range []string{"instant", "eager"} {
		if err := d.restore(ctx, v, mode, before, after); err != nil {
			return err
		}
	}
	d.say("\nNothing was lost.")
	return nil
}

// restore brings the guest back and has it say that it is the same one.
func (d *demo) restore(ctx context.Context, v *vm.VM, mode string, before, after uint64) error {
	dir, err := os.MkdirTemp(d.dir, mode)
	if err != nil {
		return err
	}
	args := []string{"restore", "--mode", mode, "--detach", d.image, "--", v.Program}
	if err := d.ramjet(ctx, append(args, v.ArgsIn(dir)...)...); err != nil {
		return err
	}
	w, err := vm.Attach(ctx, vm.SerialIn(dir), vm.QMPIn(dir))
	if err != nil {
		return err
	}
	defer w.Kill()
	n, err := w.Count()
	if err != nil {
		return err
	}
	if err := w.Dirty(0); err != nil {
		return err
	}
	c, err := w.Check()
	if err != nil {
		return err
	}
	d.say("Its counter goes on at %d (it was at %d before the save), and it says of its memory: %v.", n, before, c)
	if c.Wrong != 0 || c.Pages == 0 {
		return errors.New("the guest's memory is not right")
	}
	// A guest that began anew would count from zero.
	if n < before || after < before {
		return fmt.Errorf("the guest's counter went from %d to %d", before, n)
	}
	return nil
}
