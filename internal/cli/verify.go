// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/transfer"
)

func (a *app) verify() *cobra.Command {
	var o image.VerifyOptions
	c := &cobra.Command{
		Use:   "verify [flags] IMAGE...",
		Short: "Check every page of images",
		Long: `Check each IMAGE against its seal: every stored page, the headers, the bitmaps, the device state, and the seal itself. Pages
that are not stored are zero; their places in the file are checked to be holes or zeros. The base of a diff is checked too.

Damaged pages are listed with their block and their offset in the file. The exit status is 0 if everything is right, and 3 if
anything is damaged. An image without a seal has no checksums for its pages: then headers, bitmaps and device state are
checked to be well-formed. If they are, the exit status is 1, because the pages may still be wrong.
Each of several images is checked, whatever is wrong with the others; with --json the results are a list, "images".`,
		Example: `  ramjet verify vm1.img
  ramjet verify --json vm1.img | jq .pages_bad
  ramjet verify /var/lib/vms/*.img
  ramjet seal old.img && ramjet verify old.img`,
		Args: oneOrMore,
		RunE: func(c *cobra.Command, args []string) error {
			lean()
			if err := (transfer.Params{Channels: o.Channels}).Validate(); err != nil {
				return usageError{err}
			}
			return a.eachImage(c.Context(), args, func(img string) (any, string, error) {
				o.Image, o.Log = img, a.log
				done := a.show(&o.Progress)
				r, err := image.Verify(c.Context(), o)
				done()
				if r == nil {
					return nil, "", err
				}
				return r, verified(r), err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&o.Base, "base", "", "where the base of a diff is now: `IMAGE` (default: where it was, or beside the diff)")
	f.IntVar(&o.Channels, "channels", 0, "read with `N` parallel channels, 1 to 255 (default: chosen)")
	addDirectIO(c, &o.Direct, "read pages past the page cache (O_DIRECT)")
	return c
}

// shownBadPages is how many bad pages are listed for people; --json has more.
const shownBadPages = 20

// verified is a result in words, without what the error says.
func verified(r *image.VerifyResult) string {
	var s strings.Builder
	if r.OK {
		sayf(&s, "%s is whole: %d pages (%s), headers, bitmaps and device state are as they were sealed (%s/s, %s I/O, %d channels)\n",
			r.Image, r.PagesChecked, size(r.BytesChecked), size(int64(r.BytesPerSecond)), r.IO, r.Channels)
	}
	if r.PagesStale > 0 {
		sayf(&s, "%d pages of %s are zero and hold something else, as QEMU leaves them: a restore makes them zero\n", r.PagesStale, r.Image)
	}
	for _, d := range r.Damage {
		sayf(&s, "damaged: %s\n", d)
	}
	for i, p := range r.BadPages {
		if i == shownBadPages {
			sayf(&s, "damaged: %d more pages\n", r.PagesBad-shownBadPages)
			break
		}
		sayf(&s, "damaged: %s\n", p)
	}
	if r.Base != nil {
		s.WriteString(verified(r.Base))
	}
	return s.String()
}
