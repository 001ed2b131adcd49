// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/restore"
)

// errScrubDetached is the error for --scrub with --detach.
var errScrubDetached = errors.New("--scrub needs this command to stay while the VM runs, --detach ends it: leave one out, and check the image with ramjet verify")

func (a *app) restore() *cobra.Command {
	o := restore.Options{Mode: restore.Instant, Prefetch: restore.PrefetchOn, Began: began}
	printCommand := false
	c := &cobra.Command{
		Use:   "restore [flags] IMAGE [-- QEMU ARGS...]",
		Short: "Start a VM from an image",
		Long: `Start a VM from IMAGE, which was made by ramjet save or by QEMU's own "migrate file:" with mapped-ram.

The new VM is a second one. If the saved VM still runs, stop it, or give the new VM other disks, ports and sockets.

After -- stands the command that started the saved VM, including words before QEMU (nice, env, ip netns exec NAME). Without it
the recorded command is run; --set changes single options of that. Ramjet replaces the options for memory backing, -incoming,
-loadvm, -S and (with --qmp) the monitor, and uses the image's machine type. All other options are passed on unchanged.

instant: the guest's memory is the image, mapped copy-on-write. This takes milliseconds at any size. IMAGE must not be written
         to while the VM runs, but may be deleted or replaced by another file.
eager:   all memory is read before the guest runs. IMAGE is not needed afterwards.

Without --detach the VM ends with this command. Ctrl-C, or another signal that asks to end, ends the VM as SIGTERM to QEMU
does, and the exit status is 130. If the VM ends by itself, the exit status is QEMU's.

If IMAGE has a seal, headers, bitmaps, device state and firmware are checked before anything is loaded; in eager mode every
page is checked as it is read. In instant mode --verify checks all pages before the guest runs, and --scrub while it runs.`,
		Example: `  ramjet restore vm1.img
  ramjet restore --qmp /run/vm2.qmp --detach --json vm1.img
  ramjet restore --qmp /run/vm2.qmp --set netdev.net0.hostfwd=tcp::2223-:22 vm1.img
  ramjet restore --mode eager vm1.img -- -machine q35 -m 4G -drive file=disk.qcow2,if=virtio`,
		Args: imageAndCommand(&o.Command),
		RunE: func(c *cobra.Command, args []string) error {
			if o.Scrub && o.Detach {
				return usageError{errScrubDetached}
			}
			o.Image, o.Log, o.Warn = args[0], a.log, a.warn
			if printCommand {
				return a.printCommand(o)
			}
			done := a.show(&o.Progress)
			vm, err := restore.Restore(c.Context(), o)
			done()
			if err != nil {
				return err
			}
			if o.Detach {
				return a.print(vm.Result, restored(vm.Result))
			}
			if o.Scrub {
				go a.scrub(c.Context(), vm)
			}
			return a.stay(c.Context(), vm)
		},
	}
	f := c.Flags()
	addChoice(c, f, &o.Mode, "mode", "when memory is read: as the guest needs it, or before the guest runs", restore.Instant, restore.Eager)
	f.StringVar(&o.Socket, "qmp", "", "the new VM's monitor listens at `SOCKET` (default: the one in QEMU's arguments)")
	f.StringVar(&o.Base, "base", "", "where the base of a diff is now: `IMAGE` (default: where it was, or beside the diff)")
	addChoice(c, f, &o.Prefetch, "prefetch", "instant: read the rest of the image into the page cache while the guest runs; wait: return when that is done", restore.PrefetchOn, restore.PrefetchOff, restore.PrefetchWait)
	f.StringArrayVar(&o.Set, "set", nil, "change the saved VM's command line by `OPTION=VALUE`, OPTION.PROPERTY=VALUE or OPTION.ID.PROPERTY=VALUE; repeatable")
	f.BoolVar(&o.Paused, "paused", false, "load the VM and do not run it")
	f.BoolVar(&o.Detach, "detach", false, "return when the VM runs, and leave it running; otherwise stay, and exit with QEMU's status")
	f.BoolVar(&o.Verify, "verify", false, "check every page before the VM runs (eager does so anyway)")
	f.BoolVar(&o.Scrub, "scrub", false, "check every page of IMAGE while the VM runs, and report the result on standard error")
	f.BoolVar(&printCommand, "print-command", false, "print the command that would be run, and do not run it")
	f.IntVar(&o.Channels, "channels", 0, "read with `N` parallel channels, 1 to 255 (default: chosen)")
	addDirectIO(c, &o.Direct, "read pages past the page cache (O_DIRECT; eager)")
	return c
}

// imageAndCommand takes one image, and into command the words after "--"; nil if there is no "--".
func imageAndCommand(command *[]string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if n := c.ArgsLenAtDash(); n >= 0 {
			*command, args = args[n:], args[:n]
		}
		return exactly(1)(c, args)
	}
}

// stay runs the VM in the foreground: it has the terminal, and ends with this command.
func (a *app) stay(ctx context.Context, vm *restore.VM) error {
	a.log(strings.TrimSpace(restored(vm.Result)))
	if a.json {
		if err := a.print(vm.Result, ""); err != nil {
			a.log(err.Error()) // the VM runs, and that is what was asked for
		}
	}
	a.endsWithUs("the VM")
	stop := context.AfterFunc(ctx, func() { vm.Signal(syscall.SIGTERM) })
	defer stop()
	return ended(ctx, vm.Wait())
}

// endsWithUs explains on a terminal what Ctrl-C does.
func (a *app) endsWithUs(what string) {
	if isTerminal(a.err) && a.progress != "none" {
		fmt.Fprintf(a.err, "ramjet: %s ends with this command: Ctrl-C ends it at once; --detach would leave it running\r\n", what)
	}
}

// ended is the error of a command in the foreground whose VMs have ended with this status.
func ended(ctx context.Context, status int) error {
	switch {
	case errors.Is(context.Cause(ctx), errInterrupted):
		return fmt.Errorf("%w: what ran in the foreground was ended", errInterrupted)
	case status != 0:
		return exitStatus(status)
	}
	return nil
}

// scrubbed is a VM, or VMs, whose image can be checked while they run.
type scrubbed interface {
	Scrub(context.Context) (*image.VerifyResult, error)
}

// scrub checks the image and prints the result on standard error, good or bad, as the user asked for it.
func (a *app) scrub(ctx context.Context, vm scrubbed) {
	r, err := vm.Scrub(ctx)
	switch {
	case err == nil:
		fmt.Fprintf(a.err, "ramjet: scrub: %s", verified(r))
	case r != nil && len(r.BadPages)+len(r.Damage) > 0:
		fmt.Fprintf(a.err, "ramjet: scrub: the VM runs from a damaged image: %s\n%s", printable(oneLine(err.Error())), verified(r))
	case ctx.Err() == nil:
		fmt.Fprintf(a.err, "ramjet: scrub: %s\n", printable(oneLine(err.Error())))
	}
}

func (a *app) printCommand(o restore.Options) error {
	words, err := restore.PrintCommand(o)
	if err != nil {
		return err
	}
	return a.print(map[string]any{"command": words}, shellQuote(words)+"\n")
}

func restored(r restore.Result) string {
	resident := ""
	if r.Mode == restore.Instant && r.ResidentSeconds > 0 {
		resident = fmt.Sprintf(", all of its memory resident after %s", seconds(r.ResidentSeconds))
	}
	state := "running"
	if r.Status != "running" {
		state = fmt.Sprintf("loaded (%s)", r.Status)
	}
	return saidf("%s after %s (%s)%s: pid %d, monitor %s\n", state, seconds(r.RunningSeconds), r.Mode, resident, r.PID, r.QMP)
}
