// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/transfer"
)

// qmpVariable names the environment variable that --qmp of save is taken from where neither --qmp nor --pid is given.
const qmpVariable = "RAMJET_QMP"

func (a *app) save() *cobra.Command {
	o := save.Options{Engine: save.EngineAuto, Then: save.ThenResume, Began: began}
	noSandbox := false
	c := &cobra.Command{
		Use:   "save [flags] IMAGE",
		Short: "Save a running VM; it goes on running",
		Long: `Save a running VM's memory and devices to the file IMAGE.

The VM is any QEMU with a QMP socket that nobody else is connected to. It stands still while its memory is written
and goes on then; its disks are not part of the image. Whatever goes wrong, the VM runs on and no
half image is left. With --max-pause the save fails rather than have the VM stand still for longer. IMAGE is a QEMU mapped-ram file: QEMU itself can load it too.

With --live the VM stands still only for as long as it takes to find and write what it has changed while the rest was
copied. If it changes memory faster than that can be copied, the copying ends and the pause is longer.

With --base IMAGE is a diff: only the pages that are not as in another image. A VM that was restored instantly from
that image knows which; of any other VM all pages are read and compared with the base's checksums, which a hostile
program in the guest can deceive about pages of its own. Restoring a diff takes both files.`,
		Example: `  ramjet save --qmp /run/vm1.qmp vm1.img
  ramjet save --pid 4711 --then quit vm1.img
  ramjet save --qmp /run/vm1.qmp --force --json vm1.img
  ramjet save --qmp /run/vm1.qmp --base vm1.img vm1-tuesday.diff`,
		Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			if o.Socket == "" && o.PID == 0 {
				o.Socket = os.Getenv(qmpVariable)
			}
			if o.Socket == "" && o.PID == 0 {
				return usageError{errors.New("which VM? Give its QMP socket with --qmp or in RAMJET_QMP, or its process with --pid")}
			}
			if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
				return usageError{err}
			}
			if o.MaxPause < 0 {
				return usageError{fmt.Errorf("--max-pause is %v: a pause cannot be shorter than nothing; 0 is no limit", o.MaxPause)}
			}
			o.Image, o.Log, o.Confine = args[0], a.log, !noSandbox
			done := a.show(&o.Progress)
			a.guarded.Store(true)
			r, err := save.Save(c.Context(), o)
			done()
			if err != nil {
				return err
			}
			a.event(spent(r), "image", r.Image, "id", r.ID, "pause_seconds", r.PauseSeconds, "durable_seconds", r.DurableSeconds, "times", r.Times)
			return a.print(r, saved(r))
		},
	}
	f := c.Flags()
	f.StringVar(&o.Socket, "qmp", "", "the VM's QMP `SOCKET` (default: RAMJET_QMP of the environment)")
	f.IntVar(&o.PID, "pid", 0, "QEMU's process `PID`, where the socket cannot tell it or is to be found by it")
	addChoice(c, f, &o.Engine, "engine", "who moves the memory: ramjet, or qemu itself where ramjet cannot", save.EngineAuto, save.EngineRamjet, save.EngineQEMU)
	addChoice(c, f, &o.Then, "then", "what the VM does after the save", save.ThenResume, save.ThenStay, save.ThenQuit)
	f.IntVar(&o.Channels, "channels", 0, "write with `N` parallel channels, 1 to 255 (default: chosen)")
	addDirectIO(c, &o.Direct, "write pages past the page cache")
	f.Var((*bandwidth)(&o.MaxBandwidth), "max-bandwidth", "write at most `RATE` bytes a second, 300M say; 0 for no limit")
	f.DurationVar(&o.MaxPause, "max-pause", 0, "let the VM go on, and fail, when it stands still for longer than `DURATION`, 2s say; 0 for no limit")
	f.BoolVar(&o.NoCommandLine, "no-command-line", false, "do not record the VM's command line in the image")
	f.BoolVar(&o.Live, "live", false, "copy memory while the VM runs, stop it only for what has changed since")
	f.StringVar(&o.Base, "base", "", "write a diff: only what differs from the image `BASE` (or from its base, if it is a diff itself)")
	f.BoolVar(&o.Force, "force", false, "replace an existing IMAGE")
	f.BoolVar(&noSandbox, "no-sandbox", false, "keep the rights that are given up once the VM is attached: to files, system calls")
	return c
}

// saved says a result to a person.
func saved(r *save.Result) string {
	base := ""
	if r.Base != nil {
		base = fmt.Sprintf(" (with %s)", *r.Base)
	}
	pause := ""
	if r.PauseSeconds > 0 { // else it did not run before, or does not any more
		pause = ", pause " + seconds(r.PauseSeconds)
	}
	differs := ""
	if len(r.Differs) > 0 {
		differs = saidf("not as its command line says, so that a restore needs arguments: %s\n", strings.Join(r.Differs, "; "))
	}
	if r.NotRestorable != "" {
		differs += saidf("%s %s\n", r.Image, r.NotRestorable)
	}
	return fmt.Sprintf("saved %s%s: %s of %s memory%s, durable after %s (%s/s, %s engine, %s I/O, %d channels)\n",
		r.Image, base, size(r.BytesStored), size(r.BytesLogical), pause, seconds(r.DurableSeconds),
		size(int64(r.BytesPerSecond)), r.Engine, r.IO, r.Channels) + differs
}

// spent says where the time went.
func spent(r *save.Result) string {
	t := r.Times
	return fmt.Sprintf("time: attach %s, device state %s, memory %s (scan %s, write %s), completing %s, sync %s, publish %s",
		seconds(t.Attach), seconds(t.DeviceState), seconds(t.Memory), seconds(t.Scan), seconds(t.Write),
		seconds(t.Complete), seconds(t.Sync), seconds(t.Publish))
}

func size(n int64) string { return units.BytesSize(float64(n)) }

// seconds writes a time with three digits.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
