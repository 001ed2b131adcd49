// SPDX-License-Identifier: Apache-2.0

package save

import (
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/qemu"
)

// RunAttendant has to be called first in the main of a program that calls Save. A save starts the program once more, as
// a small process that lets the VM go on should the program be killed (package attendant); in that process RunAttendant
// does that work and does not return. In others it does nothing that is seen. Without it Save returns an error.
func RunAttendant() { attendant.Main(qemu.Guardian, image.Publisher) }
