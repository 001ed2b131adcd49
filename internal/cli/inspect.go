// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"html"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/inspect"
	"github.com/ramjet-vm/ramjet/seal"
)

func (a *app) inspect() *cobra.Command {
	var o inspect.Options
	var m mapFlag
	c := &cobra.Command{
		Use:   "inspect [flags] IMAGE...",
		Short: "Show what is in images",
		Long: `Show what each IMAGE is and where it came from. IMAGE can be an image of Ramjet, QEMU or libvirt. For other files the command
says what they are, if it can tell, and exits with status 3.

--map draws the guest's memory as wide as the terminal. Each block shows the pages that are stored and those that are zero;
each block of a diff also shows the pages that changed and those that are as in the base.

--device-state lists the sections of the device state. If QEMU described the sections in the image, as it does in its own
images, their fields and values are listed too, as by QEMU's scripts/analyze-migration.py.`,
		Example: `  ramjet inspect vm1.img
  ramjet inspect --map vm1.img
  ramjet inspect --map=vm1.svg vm1.img
  ramjet inspect --json vm1.img | jq '.blocks[] | {name, pages_stored}'`,
		Args: oneOrMore,
		RunE: func(c *cobra.Command, args []string) error {
			lean()
			if m.file != "" && len(args) > 1 {
				return usageError{fmt.Errorf("--map=%s is one picture, and %d images are to be drawn: name one image", m.file, len(args))}
			}
			return a.eachImage(c.Context(), args, func(image string) (any, string, error) {
				o.Image, o.Map = image, m.cells(a)
				r, err := inspect.Inspect(o)
				if err != nil {
					return nil, "", err
				}
				drawn, err := a.mapped(r.Map, m)
				text := inspected(o.Image, r) + drawn
				if len(args) > 1 {
					text += "\n"
				}
				return r, text, err
			})
		},
	}
	f := c.Flags()
	m.register(c)
	f.BoolVar(&o.DeviceState, "device-state", false, "list the sections of the device state, and their fields where QEMU described them")
	return c
}

// inspected is a result in words.
func inspected(path string, r *inspect.Result) string {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 8, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, saidf(format, args...)) }
	line("image", "%s", path)
	line("format", "%s", written(r))
	if r.Libvirt != nil {
		line("libvirt", "save image of version %d, format %s, domain %s", r.Libvirt.Version, r.Libvirt.Format, cmp.Or(domainName(r.Libvirt.XML), "without a name"))
	}
	line("machine", "%s%s%s", r.Machine, prefixed(", was ", r.RunState), asleep(r))
	if r.Stuck != nil {
		line("not restorable", "%s", r.Stuck)
	}
	if r.Created != nil {
		line("created", "%s", r.Created.Format(time.DateTime+" MST"))
	}
	switch {
	case r.Sealed:
		line("id", "%s", r.ID)
	case r.Complete:
		line("id", "none: not sealed (ramjet seal adds a seal)")
	}
	if r.Base != nil {
		line("base", "%s, %s when this was made", r.Base.ID, r.Base.Path)
	}
	if len(r.NeededBy) > 0 {
		line("needed by", "%s", baseNames(r.NeededBy))
	}
	if !r.Complete {
		line("incomplete", "%s", r.Incomplete)
	}
	var total int64
	for _, b := range r.Blocks {
		total += b.Length
	}
	line("memory", "%s, of which %s are stored (%s)", size(total), size(r.StoredBytes), percent(r.StoredBytes, total))
	line("file", "%s, stream of %s at offset %d", size(r.FileBytes), size(r.StreamBytes), r.StreamOffset)
	if r.Seal != nil && len(r.Seal.CommandLine) > 0 {
		line("started as", "%s", shortened(r.Seal))
		line("in", "%s", r.Seal.Cwd)
		for _, d := range r.Seal.Differs {
			line("but", "%s", d)
		}
	}
	w.Flush()
	s.WriteString("\n")
	blockTable(&s, r)
	if r.Devices != nil {
		s.WriteString("\n")
		deviceList(&s, r)
	}
	return s.String()
}

func asleep(r *inspect.Result) string {
	if r.Asleep && r.RunState != "suspended" {
		return ", its guest sleeps (S3)"
	}
	return ""
}

// shownCommand is how many bytes of the command line are shown to people; restore --print-command shows all of it.
const shownCommand = 16 << 10

// shortened is the recorded command line as a shell would take it, or its beginning.
func shortened(m *seal.Metadata) string {
	words, n := []string{m.Executable}, len(m.Executable)
	for _, w := range m.CommandLine {
		if n += len(w) + 1; n > shownCommand {
			return shellQuote(words) + " ..."
		}
		words = append(words, w)
	}
	return shellQuote(words)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// written is the kind of an image and who wrote it, in words.
func written(r *inspect.Result) string {
	by := map[string]string{"ramjet": "Ramjet", "qemu": "QEMU", "libvirt": "libvirt"}
	kind := "mapped-ram image"
	if r.Base != nil {
		kind = "diff, mapped-ram image"
	}
	s := kind + ", written by " + cmp.Or(by[r.Format], r.Format)
	switch {
	case r.Seal == nil:
		return s
	case r.Format == "ramjet":
		return s + prefixed(" ", r.Seal.RamjetVersion) + prefixed(" from QEMU ", r.QEMUVersion)
	}
	return s + prefixed(" ", r.QEMUVersion)
}

// domainName finds the name in libvirt's XML, for people only.
func domainName(xml string) string {
	_, rest, _ := strings.Cut(xml, "<name>")
	name, _, ok := strings.Cut(rest, "</name>")
	if !ok || len(name) > 255 {
		return ""
	}
	return strconv.Quote(html.UnescapeString(name))
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "0%"
	}
	return fmt.Sprintf("%.3g%%", 100*float64(part)/float64(whole))
}

// shownBlocks is how many blocks are listed for people; --json has all.
const shownBlocks = 100

func blockTable(s *strings.Builder, r *inspect.Result) {
	w := tabwriter.NewWriter(s, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "size\tpages\tstored\t\tbitmap at\tpages at\t  block\n")
	for i, b := range r.Blocks {
		if i == shownBlocks {
			fmt.Fprintf(w, "\t\t\t\t\t\t  and %d more\n", len(r.Blocks)-shownBlocks)
			break
		}
		if b.Ignored {
			sayf(w, "%s\t%d\tshared, not in the image\t\t\t\t  %s\n", size(b.Length), b.PagesTotal, b.Name)
			continue
		}
		sayf(w, "%s\t%d\t%d\t%s\t%d\t%d\t  %s\n", size(b.Length), b.PagesTotal, b.PagesStored, percent(b.PagesStored, b.PagesTotal), b.BitmapOffset, b.PagesOffset, b.Name)
	}
	w.Flush()
}

// shownValue is how much of a field's value is shown to people.
const shownValue = 100

func deviceList(s *strings.Builder, r *inspect.Result) {
	if !r.Described {
		s.WriteString("device state (without a description of the fields, which only QEMU's own images have):\n")
	} else {
		s.WriteString("device state:\n")
	}
	for _, d := range r.Devices {
		sayf(s, "%s (instance %d, version %d, %d bytes)\n", d.Name, d.Instance, d.Version, d.Bytes)
		for _, f := range d.Fields {
			v := f.Value
			if len(v) > shownValue {
				v = v[:shownValue] + "..."
			}
			sayf(s, "    %s %s = %s\n", f.Path, f.Type, v)
		}
	}
}
