// SPDX-License-Identifier: Apache-2.0

package save_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/save"
)

// A running QEMU is saved, and goes on running.
func ExampleSave() {
	save.RunAttendant() // first in main
	r, err := save.Save(context.Background(), save.Options{Socket: "/run/vm1.qmp", Image: "/var/lib/vms/vm1.img"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes, pause %.3f s\n", r.BytesStored, r.PauseSeconds)
}

// A VMM in Go saves the memory of its guest, and has it back at once: mapped copy-on-write from the image.
func ExampleMemory() {
	const size = 64 << 20
	fd, err := unix.MemfdCreate("guest memory", unix.MFD_CLOEXEC)
	check(err)
	memory := os.NewFile(uintptr(fd), "guest memory")
	check(memory.Truncate(size))
	_, err = memory.WriteAt([]byte("the guest was here"), 42<<20)
	check(err)

	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "guest.img")
	saved, err := save.Memory(context.Background(), save.MemoryOptions{
		Image:  path,
		Blocks: []save.MemoryBlock{{Name: "ram", File: memory, Length: size}},
	})
	check(err)
	fmt.Println("pages stored:", saved.PagesStored)

	file, err := os.Open(path)
	check(err)
	st, err := file.Stat()
	check(err)
	image, err := mappedram.Open(file, st.Size())
	check(err)
	again, err := unix.Mmap(int(file.Fd()), image.Blocks[0].PagesOffset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	check(err)
	fmt.Printf("%s\n", again[42<<20:][:18])
	// Output:
	// pages stored: 1
	// the guest was here
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
