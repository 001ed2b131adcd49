// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"fmt"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
)

// TestDiffAddresses (issue 16, section 3) divides a range at the gap below 4 GiB.
func TestDiffAddresses(t *testing.T) {
	i := testkit.SmallImage()
	i.Machine = "pc-q35-10.0"
	i.Blocks[0].Length = 3 << 30
	i.Page = func(block int, page int64) []byte {
		if block == 0 && page == 0 {
			return testkit.RandomPage(0, 0)
		}
		return nil
	}
	d := &diff{a: &image.PageSums{Image: opened(t, i.Write(t))}}
	edge := int64(0x80000000 / 4096)
	got := d.atAddresses([]DiffRange{{"pc.ram", edge - 2, 5, -1}, {"pc.bios", 0, 1, -1}})
	want := []DiffRange{{"pc.ram", edge - 2, 2, 0x80000000 - 2*4096}, {"pc.ram", edge, 3, 1 << 32}, {"pc.bios", 0, 1, -1}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
