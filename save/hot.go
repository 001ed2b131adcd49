// SPDX-License-Identifier: Apache-2.0

package save

import (
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/seal"
)

// findHot finds what a VM that was restored instantly has touched since: the pages that its process has. Of other VMs
// the process has all that they ever touched, which says nothing.
func (n *native) findHot() ([]seal.Hot, error) {
	var all []seal.Hot
	var size int
	for i, m := range n.memory {
		touched, ok := m.(guestmem.Changed)
		if !ok {
			continue
		}
		units := make(image.HotSet, (m.Size()/image.HotUnit+8)/8)
		if size += len(units); size > image.MaxHot {
			return nil, nil
		}
		for r, err := range touched.Touched(guestmem.Range{End: m.Size()}) {
			if err != nil {
				return nil, err
			}
			for at := r.Start; at < r.End; at = (at/image.HotUnit + 1) * image.HotUnit {
				units[at/image.HotUnit/8] |= 1 << (at / image.HotUnit % 8)
			}
		}
		all = append(all, seal.Hot{Block: n.layout.Blocks[i].Name, Units: units})
	}
	return all, nil
}
