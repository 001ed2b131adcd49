// SPDX-License-Identifier: Apache-2.0

package image

// HotUnit is how finely an image records what was needed last, in bytes.
const HotUnit = PrefetchUnit

// MaxHot is how much of it goes into an image, in bytes: that of 8 TiB.
const MaxHot = 1 << 20

// HotSet are the parts of a block that were needed last, a bit for each HotUnit. nil: nobody knows.
type HotSet []byte

// Has tells whether the part that holds the byte at off is one.
func (h HotSet) Has(off int64) bool {
	k := off / HotUnit
	return k/8 < int64(len(h)) && h[k/8]>>(k%8)&1 != 0
}

// Hot are the hot parts of block i by the image's seal.
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

// PrefetchUnit is how much is read at a time, in bytes, before it is looked whether the VM still lives.
const PrefetchUnit = 1 << 20
