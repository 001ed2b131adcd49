// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/export"
	"github.com/ramjet-vm/ramjet/export/age"
	"github.com/ramjet-vm/ramjet/transfer"
)

func (a *app) importImage() *cobra.Command {
	var o export.ImportOptions
	var identities []string
	c := &cobra.Command{
		Use:   "import [flags] DIRECTORY|FILE IMAGE",
		Short: "Make an image of raw memory and device state, or of an encrypted one",
		Long: `Make IMAGE from the files in DIRECTORY. ramjet export --format raw wrote them there, or they came from elsewhere together with
a file image.json:

  {"format_version": 1, "machine": "pc-q35-10.0",
   "blocks": [{"name": "pc.ram", "length": 536870912, "file": "pc.ram.raw"}, ...],
   "device_state": "device-state"}

machine is QEMU's machine type with its version. blocks are all blocks of "info ramblock" that have a name, in its order, with
their used length. The device state is what QEMU's command xen-save-devices-state writes.

With --identity IMAGE is made from FILE, which ramjet export --format age encrypted; - is standard input. Anybody may encrypt
for a recipient: only its id proves which image was encrypted. --channels and --direct-io have no effect then.

The recorded command line is left out, because a restore would run it: give QEMU's arguments to ramjet restore. With
--keep-command-line it is kept; use that only for files that you wrote yourself. An encrypted image keeps its id only with
--keep-command-line.`,
		Example: `  ramjet import vm1.d vm1.img
  ramjet import --force vm1.d vm1.img && ramjet restore vm1.img -- -machine q35 -m 512M
  ramjet import --identity key.txt --keep-command-line vm1.img.age vm1.img && ramjet verify vm1.img`,
		Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
				return usageError{err}
			}
			for _, f := range identities {
				keys, err := age.ReadIdentities(f)
				if err != nil {
					return fmt.Errorf("--identity: %w", err)
				}
				o.Identities = append(o.Identities, keys...)
			}
			o.Dir, o.Image = args[0], args[1]
			switch {
			case o.Image == standard:
				return usageError{errors.New("IMAGE is made and named when it is whole, which standard output cannot be: name its file")}
			case o.Dir == standard && len(o.Identities) == 0:
				return usageError{errors.New("standard input can be what ramjet export encrypted, not a directory: give --identity FILE with it")}
			case o.Dir == standard:
				o.Dir, o.From = "standard input", a.in
			}
			done := a.show(&o.Progress)
			r, err := export.Import(c.Context(), o)
			done()
			if err != nil {
				return err
			}
			return a.print(r, imported(r))
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Force, "force", false, "replace an existing IMAGE")
	f.BoolVar(&o.KeepCommandLine, "keep-command-line", false, "keep the recorded command line, which a restore without arguments runs")
	f.StringArrayVar(&identities, "identity", nil, "decrypt with the secret keys in `FILE`, as age-keygen writes it; repeatable")
	f.IntVar(&o.Channels, "channels", 0, "write with `N` parallel channels, 1 to 255 (default: chosen)")
	addDirectIO(c, &o.Direct, "write pages past the page cache (O_DIRECT)")
	return c
}

// imported is a result in words.
func imported(r *export.ImportResult) string {
	dropped := ""
	if r.DroppedCommandLine {
		dropped = "; without the recorded command line (--keep-command-line keeps it)"
	}
	return saidf("imported %s: id %s, %d of %d pages stored (%s)%s\n", r.Image, cmp.Or(r.ID, "none"), r.PagesStored, r.PagesTotal, size(r.BytesStored), dropped)
}
