// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/export"
	"github.com/ramjet-vm/ramjet/export/age"
	"github.com/ramjet-vm/ramjet/transfer"
)

func (a *app) export() *cobra.Command {
	var o export.Options
	var format exportFormat
	var recipients, recipientFiles []string
	c := &cobra.Command{
		Use:   "export [flags] IMAGE OUT",
		Short: "Write an image as raw memory, as an ELF core, without its base, or encrypted",
		Long: `Write IMAGE in another form, to look at it with other tools or to move it to other programs.

raw   OUT becomes a directory. It has one sparse file for each block of memory, as the block lies in QEMU; the device state;
      and image.json, which describes the files. ramjet import makes an image from them again. With --block NAME OUT becomes
      a file with the memory of that block only.
elf   OUT becomes a core file of the guest's physical memory with the processors' registers, as QEMU's dump-guest-memory
      writes it. Zero pages are holes. gdb -core OUT shows the registers, and memory by physical address. For stacks, whose
      addresses are virtual, use crash. The guest has to be in 64-bit mode. Plugged memory whose address was not recorded is
      placed with --memory NAME@ADDRESS.

flat  OUT becomes one image made of a diff and its base. On a file system that shares blocks (XFS, btrfs) OUT shares their
      pages and is written at once; shared pages are not read.

age   OUT becomes IMAGE, encrypted for the owners of the keys that --recipient and --recipients-file name (with these flags
      --format is not needed). ramjet import --identity makes the image from it again. A diff stays a diff: OUT does not hold
      its base. The format is a sparse tar archive, encrypted with age (age-encryption.org).

If OUT is one file it can be -, standard output. For age nothing is stored on the way. The other forms are first written to a
file without a name in TMPDIR, and copied to standard output when that is whole.

Pages of a sealed image are checked as they are read; for age they are checked before. A diff is exported together with its
base, except by age.`,
		Example: `  ramjet export --format elf vm1.img vm1.core && crash vmlinux vm1.core
  ramjet export --format raw vm1.img vm1.d && ramjet import vm1.d again.img
  ramjet export --format raw --block pc.ram vm1.img pc.ram
  ramjet export --format flat diff.img whole.img
  ramjet export --recipient age1s4lgdsf5pg2v3qzdq8gt2g07qwvwfnstjznesy7a2t3qmrnq758qe58pfm vm1.img vm1.img.age
  ramjet export --recipients-file us.txt vm1.img - | ssh host2 ramjet import --identity key.txt - vm1.img`,
		Args: exactly(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
				return usageError{err}
			}
			secret := len(recipients)+len(recipientFiles) > 0
			if secret && format == "" {
				format = exportFormat(export.Age)
			}
			o.Format = export.Format(format)
			if err := checkFlags(&o, secret); err != nil {
				return usageError{err}
			}
			var err error
			if o.Recipients, err = readRecipients(recipients, recipientFiles); err != nil {
				return err
			}
			o.Image, o.Out = args[0], args[1]
			if err := a.standardOutput(&o); err != nil {
				return usageError{err}
			}
			done := a.show(&o.Progress)
			r, err := export.Export(c.Context(), o)
			done()
			if err != nil {
				return err
			}
			if o.To != nil {
				return nil
			}
			return a.print(r, exported(r))
		},
	}
	f := c.Flags()
	f.Var(&format, "format", "the form of OUT (required, unless a recipient is given)")
	f.StringVar(&o.Block, "block", "", "raw: write only the block `NAME`, to the file OUT")
	f.StringSliceVar(&o.Memory, "memory", nil, "elf: the blocks of main memory, `NAME,...`, in the order of their addresses, and NAME@ADDRESS for plugged memory (default: as recorded)")
	f.StringArrayVar(&recipients, "recipient", nil, "age: encrypt for the owner of the key `age1...`; repeatable")
	f.StringArrayVar(&recipientFiles, "recipients-file", nil, "age: encrypt for the recipients in `FILE`, one a line; repeatable")
	f.StringVar(&o.Base, "base", "", "where the base of a diff is now: `IMAGE` (default: where it was, or beside the diff)")
	f.BoolVar(&o.Force, "force", false, "replace what is at OUT")
	f.IntVar(&o.Channels, "channels", 0, "read with `N` parallel channels, 1 to 255 (default: chosen)")
	addDirectIO(c, &o.Direct, "read pages past the page cache (O_DIRECT)")
	_ = c.RegisterFlagCompletionFunc("format", fixed("raw", "elf", "flat", "age"))
	return c
}

// exportFormat is --format; which words it takes is checked with the other flags.
type exportFormat string

func (e *exportFormat) String() string     { return string(*e) }
func (e *exportFormat) Type() string       { return "raw|elf|flat|age" }
func (e *exportFormat) Set(s string) error { *e = exportFormat(s); return nil }

// standard, as a file's name, stands for standard input or output.
const standard = "-"

// standardOutput sends the export to standard output if OUT is -, and refuses what cannot go there.
func (a *app) standardOutput(o *export.Options) error {
	switch {
	case o.Image == standard:
		return errors.New("IMAGE is read at many places at once, which standard input is not: name its file")
	case o.Out != standard:
		return nil
	case o.Format == export.Raw && o.Block == "":
		return errors.New("with --format raw OUT is a directory, and standard output is none: name it, or one block of it with --block")
	case o.Force:
		return errors.New("--force has nothing to replace where OUT is standard output: leave it out")
	case a.json:
		return errors.New("--json prints to standard output, which is where OUT goes: leave one of the two out")
	case isTerminal(a.out):
		return errors.New("standard output is a terminal: pipe it into a program, or send it to a file with >")
	}
	o.Out, o.To = "standard output", a.out
	return nil
}

// checkFlags refuses flags that do not go together. secret: there are recipients.
func checkFlags(o *export.Options, secret bool) error {
	switch encrypts := o.Format == export.Age; {
	case !slices.Contains([]string{"raw", "elf", "flat", "age"}, string(o.Format)):
		return errors.New("which format? Give --format raw, --format elf, --format flat or --format age")
	case secret && !encrypts:
		return fmt.Errorf("--recipient and --recipients-file go with --format age: export with --format %s, then encrypt that with age", o.Format)
	case !secret && encrypts:
		return errors.New("encrypted for whom? Give --recipient age1... or --recipients-file FILE")
	case o.Base != "" && encrypts:
		return errors.New("--base does not go with --format age: a diff is encrypted by itself")
	case o.Block != "" && o.Format != export.Raw:
		return errors.New("--block goes with --format raw")
	case o.Memory != nil && o.Format != export.ELF:
		return errors.New("--memory goes with --format elf")
	}
	return nil
}

// readRecipients reads public keys of age.
func readRecipients(keys, files []string) (all []age.Recipient, err error) {
	for _, k := range keys {
		r, err := age.ParseRecipient(k)
		if err != nil {
			return nil, usageError{fmt.Errorf("--recipient: %w", err)}
		}
		all = append(all, r)
	}
	for _, f := range files {
		r, err := age.ReadRecipients(f)
		if err != nil {
			return nil, fmt.Errorf("--recipients-file: %w", err)
		}
		all = append(all, r...)
	}
	return all, nil
}

// exported is a result in words.
func exported(r *export.Result) string {
	var s strings.Builder
	sayf(&s, "exported %s to %s (%s)\n", r.Image, r.Out, r.Format)
	for _, g := range r.Segments {
		sayf(&s, "  physical %#011x, %s: %s from %#x on\n", g.Address, size(g.Length), g.Block, g.Offset)
	}
	if r.Format == export.ELF {
		sayf(&s, "  registers of %d processors\n", r.CPUs)
	}
	if r.ID != "" {
		sayf(&s, "  id %s\n", r.ID)
	}
	if len(r.LeftOut) > 0 {
		sayf(&s, "  not in it: %s\n", strings.Join(r.LeftOut, ", "))
	}
	return s.String()
}
