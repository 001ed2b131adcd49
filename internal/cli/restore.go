// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"

	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/snapshot"
)

func (a *app) restore() *cobra.Command {
	o := snapshot.RestoreOptions{Mode: snapshot.Instant, Began: began}
	printCommand := false
	c := &cobra.Command{
		Use:   "restore [flags] IMAGE [-- QEMU ARGS...]",
		Short: "Start a VM from an image",
		Long: `Start a VM from IMAGE, made by ramjet save or by QEMU's own "migrate file:" with mapped-ram.

What stands after -- is the command that started the saved VM; without it the recorded one is used. What concerns
memory backing, -incoming, -S and (with --qmp) the monitor is replaced, all else is passed on as it is.

instant: the guest's memory is the image, mapped copy-on-write. Takes milliseconds at any size; IMAGE must stay as it is
while the VM runs (it may be deleted or replaced by another file).
eager: all memory is read before the guest runs; IMAGE is not needed then any more.`,
		Example: `  ramjet restore vm1.img
  ramjet restore --qmp /run/vm2.qmp --detach --json vm1.img
  ramjet restore --mode eager vm1.img -- -machine q35 -m 4G -drive file=disk.qcow2,if=virtio`,
		Args: func(c *cobra.Command, args []string) error {
			if n := c.ArgsLenAtDash(); n >= 0 {
				o.Command = args[n:]
				args = args[:n]
			}
			return exactly(1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.Image, o.Log = args[0], a.log
			if printCommand {
				return a.printCommand(o)
			}
			done := a.show(&o.Progress)
			vm, err := snapshot.Restore(c.Context(), o)
			done()
			if err != nil {
				return err
			}
			if o.Detach {
				return a.print(vm.RestoreResult, restored(vm.RestoreResult))
			}
			return a.stay(c.Context(), vm)
		},
	}
	f := c.Flags()
	f.Var(oneWord(&o.Mode, "instant|eager"), "mode", "when memory comes: as the guest asks for it, or before it runs")
	f.StringVar(&o.Socket, "qmp", "", "the new VM's monitor listens at `SOCKET` (default: where its arguments say)")
	f.BoolVar(&o.Paused, "paused", false, "load the VM, do not run it")
	f.BoolVar(&o.Detach, "detach", false, "return when it runs and leave it running; else stay, and exit with QEMU's status")
	f.BoolVar(&printCommand, "print-command", false, "print the command line that would be run, and stop")
	f.IntVar(&o.Channels, "channels", 0, "read with `N` parallel channels, 1 to 255 (default: chosen)")
	f.Var(&o.Direct, "direct-io", "read pages past the page cache (eager)")
	_ = c.RegisterFlagCompletionFunc("mode", fixed("instant", "eager"))
	_ = c.RegisterFlagCompletionFunc("direct-io", fixed("auto", "on", "off"))
	return c
}

// stay is the foreground: the VM has our terminal and gets the signals that we get.
func (a *app) stay(ctx context.Context, vm *snapshot.VM) error {
	a.log(strings.TrimSpace(restored(vm.RestoreResult)))
	stop := context.AfterFunc(ctx, func() { vm.Signal(syscall.SIGTERM) })
	defer stop()
	if status := vm.Wait(); status != 0 {
		return exitStatus(status)
	}
	return nil
}

func (a *app) printCommand(o snapshot.RestoreOptions) error {
	words, err := snapshot.PrintCommand(o)
	if err != nil {
		return err
	}
	return a.print(map[string]any{"command": words}, shellQuote(words)+"\n")
}

func restored(r snapshot.RestoreResult) string {
	return fmt.Sprintf("running after %s (%s): pid %d, monitor %s\n", seconds(r.RunningSeconds), r.Mode, r.PID, r.QMP)
}

// shellQuote writes words so that a shell reads them as they are.
func shellQuote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n\"'\\$`*?[]{}()<>|&;#~!") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
