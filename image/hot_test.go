// SPDX-License-Identifier: Apache-2.0

package image

import (
	"testing"
)

// TestHotSet asks a set for parts that are in it, are not, and are beyond it.
func TestHotSet(t *testing.T) {
	h := HotSet{0b101, 0x80}
	for at, want := range map[int64]bool{0: true, HotUnit - 1: true, HotUnit: false, 2 * HotUnit: true, 15 * HotUnit: true, 16 * HotUnit: false, 1 << 60: false} {
		if h.Has(at) != want {
			t.Errorf("at %d: %v, want %v", at, h.Has(at), want)
		}
	}
	if HotSet(nil).Has(0) {
		t.Error("what is not known is hot")
	}
}
