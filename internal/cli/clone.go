// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/restore"
)

func (a *app) clone() *cobra.Command {
	o := restore.CloneOptions{Options: restore.Options{Mode: restore.Instant, Prefetch: restore.PrefetchOn, Began: began}}
	dir, printCommand := "", false // dir: of --qmp
	c := &cobra.Command{
		Use:   "clone [flags] IMAGE -n N [-- QEMU ARGS...]",
		Short: "Start N VMs from one image",
		Long: `Start N VMs from IMAGE. The VMs share the image's page cache: each takes only the memory that it writes to.

In QEMU's arguments {n} stands for the clone's number, from 0 on; --set puts {n} into single options of the recorded command.
Two clones cannot both have a port of the host, a socket, a file or disk that is written: such options are found, and refused,
before the first clone starts. With --qmp-dir DIR the clones' monitors are DIR/0.sock, DIR/1.sock and so on. With --overlay
everything that a clone writes to its disks goes into qcow2 images in DIR.

If one clone cannot be started, the others are left running, and the error says which one failed.

The guests are the same to the last bit: the same host name, MAC addresses and future random numbers. That is fine for guests
that share no network. The device -device vmgenid tells a guest that it was cloned.`,
		Example: `  ramjet clone vm1.img -n 10 --qmp-dir /run/clones --overlay --detach
  ramjet clone vm1.img -n 10 --qmp-dir /run/clones --set 'netdev.net0.hostfwd=tcp::222{n}-:22' --detach
  ramjet clone vm1.img -n 3 --qmp-dir /run/clones -- -m 4G -nic user,hostfwd=tcp::222{n}-:22 -serial file:/tmp/{n}.log`,
		Args: imageAndCommand(&o.Command),
		RunE: func(c *cobra.Command, args []string) error {
			if o.N < 1 || o.N > restore.MaxClones {
				return usageError{fmt.Errorf("how many clones? Give -n 1 to %d", restore.MaxClones)}
			}
			if dir != "" && o.Socket != "" && dir != o.Socket {
				return usageError{errors.New("--qmp and --qmp-dir are two names of one flag, and name two directories: leave one out")}
			}
			o.Socket = cmp.Or(o.Socket, dir)
			if o.Overlay && o.Socket == "" {
				return usageError{errors.New("--overlay puts the overlays into the directory of --qmp-dir: name one")}
			}
			if o.Scrub && o.Detach {
				return usageError{errScrubDetached}
			}
			o.Image, o.Log, o.Warn = args[0], a.log, a.warn
			if printCommand {
				return a.printCommands(o)
			}
			clones, err := restore.Clone(c.Context(), o)
			if clones == nil {
				return err
			}
			if o.Scrub {
				go a.scrub(c.Context(), clones)
			}
			return a.cloned(c.Context(), clones, o.Detach, err)
		},
	}
	f := c.Flags()
	f.IntVarP(&o.N, "number", "n", 0, "start `N` clones")
	addChoice(c, f, &o.Mode, "mode", "when memory is read: as the guests need it, or before they run", restore.Instant, restore.Eager)
	f.StringVar(&o.Socket, "qmp-dir", "", "make the monitors' sockets, 0.sock and so on, in `DIR` (default: the sockets in QEMU's arguments)")
	f.StringVar(&dir, "qmp", "", "the same as --qmp-dir `DIR`")
	f.StringVar(&o.Base, "base", "", "where the base of a diff is now: `IMAGE` (default: where it was, or beside the diff)")
	f.BoolVar(&o.Overlay, "overlay", false, "give each clone a qcow2 overlay of each disk that is written, in the directory of --qmp-dir")
	addChoice(c, f, &o.Prefetch, "prefetch", "instant: read the rest of the image into the page cache while the guests run; wait: return when that is done", restore.PrefetchOn, restore.PrefetchOff, restore.PrefetchWait)
	f.StringArrayVar(&o.Set, "set", nil, "change the saved VM's command line by `OPTION=VALUE`, OPTION.PROPERTY=VALUE or OPTION.ID.PROPERTY=VALUE; repeatable")
	f.BoolVar(&o.Paused, "paused", false, "load the clones and do not run them")
	f.BoolVar(&o.Detach, "detach", false, "return when the clones run, and leave them running; otherwise stay until all have ended")
	f.BoolVar(&o.Verify, "verify", false, "check every page before the clones run")
	f.BoolVar(&o.Scrub, "scrub", false, "check every page of IMAGE while the clones run, and report the result on standard error")
	f.BoolVar(&printCommand, "print-command", false, "print the commands that would be run, and do not run them")
	f.IntVar(&o.Channels, "channels", 0, "read with `N` parallel channels, 1 to 255 (eager; default: chosen)")
	addDirectIO(c, &o.Direct, "read pages past the page cache (O_DIRECT; eager)")
	return c
}

// cloned prints which clones run and, unless they are detached, waits for them. wrong is why others do not run; nil: all do.
func (a *app) cloned(ctx context.Context, clones *restore.Clones, detach bool, wrong error) error {
	var text strings.Builder
	for _, v := range clones.VMs {
		if v.Error == "" {
			fmt.Fprintf(&text, "clone %d %s", v.N, restored(v.Result))
		}
	}
	if detach {
		return a.printBeside(clones.CloneResult, text.String(), wrong)
	}
	a.log(strings.TrimSpace(text.String()))
	if a.json {
		wrong = errors.Join(wrong, a.printClones(clones.CloneResult, wrong))
	}
	if text.Len() > 0 {
		a.endsWithUs("every clone")
	}
	stop := context.AfterFunc(ctx, func() { clones.Signal(syscall.SIGTERM) })
	defer stop()
	status := clones.Wait()
	if wrong == nil {
		return ended(ctx, status)
	}
	return wrong
}

// printCommands prints the command lines of clones, one a line.
func (a *app) printCommands(o restore.CloneOptions) error {
	commands, err := restore.PrintClones(o)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, words := range commands {
		text.WriteString(shellQuote(words) + "\n")
	}
	return a.print(map[string]any{"commands": commands}, text.String())
}

// printClones prints the result as JSON, with the error if there is one, while the clones run.
func (a *app) printClones(r restore.CloneResult, err error) error {
	if err == nil {
		return a.print(r, "")
	}
	b, e := json.Marshal(r)
	if e != nil {
		return e
	}
	return a.print(json.RawMessage(failed(err).within(b)), "")
}
