// SPDX-License-Identifier: Apache-2.0

package guestmem_test

import (
	"fmt"
	"log"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
)

// Of a gigabyte only what was ever written to is looked at.
func ExampleOpenFile() {
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	check(err)
	f := os.NewFile(uintptr(fd), "memory")
	check(f.Truncate(1 << 30))
	_, err = f.WriteAt([]byte("here"), 512<<20)
	check(err)

	m, err := guestmem.OpenFile(f, 0, 1<<30, nil)
	check(err)
	defer m.Close()
	for r, err := range m.Populated(guestmem.Range{End: m.Size()}) {
		check(err)
		fmt.Printf("%d bytes at %d MiB\n", r.Len(), r.Start>>20)
	}
	// Output: 4096 bytes at 512 MiB
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
