// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"slices"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// atAddresses fills in the guest-physical addresses of ranges, if one of the images has them, and divides ranges that lie on both sides
// of a gap.
func (d *diff) atAddresses(ranges []DiffRange) []DiffRange {
	layout, err := cmdline.GuestMemory(d.a.Image.Image, nil)
	if err != nil {
		if layout, err = cmdline.GuestMemory(d.b.Image.Image, nil); err != nil {
			return ranges
		}
	}
	divided := []DiffRange{}
	for _, r := range ranges {
		for r.Pages > 0 {
			part := r
			start := r.First * mappedram.PageSize
			i := slices.IndexFunc(layout, func(l cmdline.PhysicalRange) bool {
				return l.Block == r.Block && l.Offset <= start && start < l.Offset+l.Length
			})
			if i >= 0 {
				part.Address = layout[i].Address + start - layout[i].Offset
				part.Pages = min(r.Pages, (layout[i].Offset+layout[i].Length-start)/mappedram.PageSize)
			}
			divided = append(divided, part)
			r.First, r.Pages = r.First+part.Pages, r.Pages-part.Pages
		}
	}
	return divided
}
