// SPDX-License-Identifier: Apache-2.0

package transfer_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Memory goes to an image and from there into other memory, over four channels each way. What a VMM wants is
// mostly there in snapshot.SaveMemory; this is what that is made of.
func Example() {
	const size = 16 << 20
	from, to := newMemory(size), newMemory(size)
	must(from.Write([]byte(fmt.Sprintf("%-4096s", "a page")), 8<<20))

	layout, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "none", Capabilities: []string{"mapped-ram"}},
		[]mappedram.Block{{Name: "ram", Length: size}})
	must(err)
	f, err := os.CreateTemp("", "example")
	must(err)
	defer os.Remove(f.Name())
	must(f.Truncate(layout.RAMEnd)) // holes, where zero pages stay
	save := &transfer.Save{Layout: layout, Memory: []guestmem.Memory{from}, Image: directio.Path(f.Name())}
	must(save.Run(context.Background()))
	fmt.Println("stored:", save.Progress.Stored.Load(), "of", layout.Blocks[0].Pages())

	load := &transfer.Load{Image: directio.Path(f.Name()),
		Blocks: []transfer.LoadBlock{{Block: layout.Blocks[0], Stored: save.Stored[0], Memory: to}}}
	must(load.Run(context.Background()))
	page := make([]byte, guestmem.PageSize)
	must(to.Read(page, 8<<20))
	fmt.Printf("%s\n", page[:6])
	// Output:
	// stored: 1 of 4096
	// a page
}

func newMemory(size int64) guestmem.Memory {
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	must(err)
	f := os.NewFile(uintptr(fd), "memory")
	must(f.Truncate(size))
	m, err := guestmem.OpenFile(f, 0, size, nil)
	must(err)
	return m
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
