// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"runtime/debug"
)

// lean is for commands that look at files from anywhere: their memory is bounded whatever is in the file, and the
// collector shall not let twice as much pile up.
func lean() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(32 << 20)
	}
}
