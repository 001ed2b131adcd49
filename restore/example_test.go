// SPDX-License-Identifier: Apache-2.0

package restore_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ramjet-vm/ramjet/restore"
)

// A VM is started from its image, with its memory mapped from it.
func ExampleRestore() {
	restore.RunAttendant() // first in main
	vm, err := restore.Restore(context.Background(), restore.Options{
		Image: "/var/lib/vms/vm1.img", Socket: "/run/vm2.qmp", Detach: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("process %d runs after %.3f s\n", vm.PID, vm.RunningSeconds)
}
