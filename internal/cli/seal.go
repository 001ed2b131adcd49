// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/inspect"
	"github.com/ramjet-vm/ramjet/transfer"
)

func (a *app) seal() *cobra.Command {
	var o inspect.SealOptions
	c := &cobra.Command{
		Use:   "seal [flags] IMAGE...",
		Short: "Add a seal to images made by QEMU or libvirt",
		Long: `Add a seal to each IMAGE, which was made by QEMU's "migrate file:" with mapped-ram or by "virsh save --image-format sparse". A
seal has a checksum of every stored page and of everything else, and an id. QEMU and libvirt load the image as before.

The seal is appended to the file. Nothing in the file changes, and VMs may run from the image meanwhile. If the command is
interrupted, seal the image again. ramjet save seals its images itself.`,
		Example: `  ramjet seal vm1.img
  virsh save vm1 vm1.img --image-format sparse && ramjet seal vm1.img`,
		Args: oneOrMore,
		RunE: func(c *cobra.Command, args []string) error {
			if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
				return usageError{err}
			}
			return a.eachImage(c.Context(), args, func(image string) (any, string, error) {
				o.Image, o.Log = image, a.log
				done := a.show(&o.Progress)
				r, err := inspect.Seal(c.Context(), o)
				done()
				if err != nil {
					return nil, "", err
				}
				return r, fmt.Sprintf("sealed %s: id %s, %d pages (%s), the file has grown by %s\n",
					r.Image, r.ID, r.PagesStored, size(r.BytesStored), size(r.SealBytes)), nil
			})
		},
	}
	f := c.Flags()
	f.IntVar(&o.Channels, "channels", 0, "read with `N` parallel channels, 1 to 255 (default: chosen)")
	addDirectIO(c, &o.Direct, "read pages past the page cache (O_DIRECT)")
	return c
}
