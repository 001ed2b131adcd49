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
		Long: `Save the memory and the devices of a running VM to the file IMAGE.

The VM can be any QEMU with a QMP socket that nobody else is connected to. The VM stands still while its memory is written,
and goes on then. Its disks are not part of the image. If the save fails, the VM runs on and no half image is left.
With --max-pause the save fails when the VM has stood still for that long. IMAGE is a QEMU mapped-ram file, which QEMU itself
can load too.

With --live memory is copied while the VM runs. The VM stands still only while Ramjet finds and writes what has changed since
its copy. If the VM changes memory faster than memory can be copied, the copying ends and the pause is longer.

With --base IMAGE is a diff: it holds only the pages that differ from another image. For a VM that was restored instantly
from that image, the kernel knows these pages. For any other VM all pages are read and compared with the base's checksums; a
hostile program in the guest can deceive that comparison about pages of its own. Restoring a diff needs both files.`,
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
	f.IntVar(&o.PID, "pid", 0, "QEMU's process `PID`: to find the socket, or where the socket does not tell the process")
	addChoice(c, f, &o.Engine, "engine", "who writes the memory: ramjet, qemu itself, or (auto) qemu only where ramjet cannot", save.EngineAuto, save.EngineRamjet, save.EngineQEMU)
	addChoice(c, f, &o.Then, "then", "what the VM does after the save", save.ThenResume, save.ThenStay, save.ThenQuit)
	f.IntVar(&o.Channels, "channels", 0, "write with `N` parallel channels, 1 to 255 (default: chosen)")
	addDirectIO(c, &o.Direct, "write pages past the page cache (O_DIRECT)")
	f.Var((*bandwidth)(&o.MaxBandwidth), "max-bandwidth", "write at most `RATE` bytes a second, such as 300M; 0 for no limit")
	f.DurationVar(&o.MaxPause, "max-pause", 0, "let the VM go on, and fail, when the VM stands still for longer than `DURATION`, such as 2s; 0 for no limit")
	f.BoolVar(&o.NoCommandLine, "no-command-line", false, "do not record the VM's command line in the image")
	f.BoolVar(&o.Live, "live", false, "copy memory while the VM runs, and stop the VM only for what has changed since")
	f.StringVar(&o.Base, "base", "", "write a diff: only what differs from the image `BASE` (or from its base, if it is a diff itself)")
	f.BoolVar(&o.Force, "force", false, "replace an existing IMAGE")
	f.BoolVar(&noSandbox, "no-sandbox", false, "keep the rights to files and system calls that ramjet otherwise gives up once it is attached to the VM")
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
