// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/seal"
)

// hotUnit is how finely an image records what was needed last, in bytes.
const hotUnit = prefetchUnit

// maxHot is how much of it goes into an image, in bytes: that of 8 TiB.
const maxHot = 1 << 20

// hotSet are the parts of a block that were needed last, a bit for each hotUnit. nil: nobody knows.
type hotSet []byte

// has tells whether the part that holds the byte at off is one.
func (h hotSet) has(off int64) bool {
	k := off / hotUnit
	return k/8 < int64(len(h)) && h[k/8]>>(k%8)&1 != 0
}

// hot are the hot parts of block i by the image's seal.
func (m *openedImage) hot(i int) hotSet {
	if m.Seal == nil {
		return nil
	}
	for _, h := range m.Seal.Hot {
		if h.Block == m.Blocks[i].Name {
			return h.Units
		}
	}
	return nil
}

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
		units := make(hotSet, (m.Size()/hotUnit+8)/8)
		if size += len(units); size > maxHot {
			return nil, nil
		}
		for r, err := range touched.Touched(guestmem.Range{End: m.Size()}) {
			if err != nil {
				return nil, err
			}
			for at := r.Start; at < r.End; at = (at/hotUnit + 1) * hotUnit {
				units[at/hotUnit/8] |= 1 << (at / hotUnit % 8)
			}
		}
		all = append(all, seal.Hot{Block: n.layout.Blocks[i].Name, Units: units})
	}
	return all, nil
}
