// SPDX-License-Identifier: Apache-2.0

package snapshot

import "testing"

// TestHotSet asks a set for parts that are in it, are not, and are beyond it.
func TestHotSet(t *testing.T) {
	h := hotSet{0b101, 0x80}
	for at, want := range map[int64]bool{0: true, hotUnit - 1: true, hotUnit: false, 2 * hotUnit: true, 15 * hotUnit: true, 16 * hotUnit: false, 1 << 60: false} {
		if h.has(at) != want {
			t.Errorf("at %d: %v, want %v", at, h.has(at), want)
		}
	}
	if hotSet(nil).has(0) {
		t.Error("what is not known is hot")
	}
}
