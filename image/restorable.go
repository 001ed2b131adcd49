// SPDX-License-Identifier: Apache-2.0

package image

import (
	"github.com/ramjet-vm/ramjet/vmstate"
)

// NotRestorable says why Ramjet does not restore an image of this configuration, or nothing. Streams of x86_64 do not name the size
// of their pages, those of targets that can have several do (vmstate_target_page_bits).
func NotRestorable(c vmstate.Config) string {
	if c.PageBits == 0 {
		return ""
	}
	return "is of another architecture than x86_64, which is the only one that Ramjet restores: QEMU itself loads it"
}
