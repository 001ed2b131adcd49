// SPDX-License-Identifier: Apache-2.0

package image

// HotUnit is the size of the parts of memory in a HotSet, in bytes.
const HotUnit = PrefetchUnit

// MaxHot bounds the hot sets in an image, in bytes: enough for 8 TiB of memory.
const MaxHot = 1 << 20

// HotSet are the parts of a block that the guest needed last, a bit for each HotUnit. nil: not recorded.
type HotSet []byte

// Has reports whether the part with the byte at off was needed.
func (h HotSet) Has(off int64) bool {
	k := off / HotUnit
	return k/8 < int64(len(h)) && h[k/8]>>(k%8)&1 != 0
}

// Hot is the hot set of block i that the image's seal records.
func (m *File) Hot(i int) HotSet {
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

// PrefetchUnit is how much a prefetcher reads at a time, in bytes; after each it checks that the VM still lives.
const PrefetchUnit = 1 << 20
