// SPDX-License-Identifier: Apache-2.0

package mappedram_test

import (
	"fmt"
	"log"
	"os"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// An image with one page in it is written and read again.
func Example() {
	f, err := os.CreateTemp("", "example")
	check(err)
	defer os.Remove(f.Name())

	machine := vmstate.Config{MachineType: "none", Capabilities: []string{"mapped-ram"}}
	layout, err := mappedram.NewLayout(0, machine, []mappedram.Block{{Name: "ram", Length: 1 << 20}})
	check(err)
	check(f.Truncate(layout.RAMEnd))
	ram := layout.Blocks[0]
	stored := mappedram.NewBitmap(ram.Pages())
	_, err = f.WriteAt([]byte("page seven"), ram.PagesOffset+7*mappedram.PageSize)
	check(err)
	stored.Set(7)
	check(layout.WriteHeaders(f))
	check(layout.WriteBitmap(f, 0, stored))
	end, err := layout.WriteTail(f, nil, nil)
	check(err)
	check(f.Sync())
	check(layout.WriteMagic(f)) // the first bytes, last: only now it is an image

	image, err := mappedram.Open(f, end)
	check(err)
	bitmap, err := image.Bitmap(0)
	check(err)
	for first, after := range bitmap.Runs(image.Blocks[0].Pages()) {
		fmt.Printf("%s: pages [%d, %d) of %d\n", image.Blocks[0].Name, first, after, image.Blocks[0].Pages())
	}
	// Output: ram: pages [7, 8) of 256
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
