// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/qemu"
)

// RunAttendant has to be called first in the main of a program that calls Restore or Clone. A restore starts the
// program once more, as a small process that ends QEMU should the program be killed, and as one that reads the image
// behind the running guest (package attendant); in those processes RunAttendant does that work and does not return. In
// others it does nothing that is seen. Without it Restore returns an error.
func RunAttendant() { attendant.Main(qemu.Leash, Prefetcher) }
