// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"strings"

	"github.com/ramjet-vm/ramjet/image"
)

// sameAsRecorded returns an error if the VM was not as its recorded command line says any more when it was saved.
func sameAsRecorded(image *image.File) error {
	if d := image.Seal.Differs; len(d) > 0 {
		return fmt.Errorf("the command line recorded in %s was not that of the VM any more when it was saved (%s): give the arguments for what it was after -- (ramjet inspect shows the recorded ones)", image.Path, strings.Join(d, "; "))
	}
	return nil
}
