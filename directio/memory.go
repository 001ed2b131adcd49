// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// Memory is how much room there is for a page cache. The zero Memory is unknown.
type Memory struct {
	Available int64   // bytes; see sys.AvailableMemory
	Waiting   float64 // per cent of the last ten seconds in which some process waited for memory
}

// pressure is how many per cent of waiting mean that the page cache can grow only by what it displaces.
const pressure = 10

// shortage returns why this many more bytes in the page cache are too many; "" if they are not.
func (m Memory) shortage(bytes int64) string {
	switch {
	case m.Waiting >= pressure:
		return fmt.Sprintf("memory is short (processes wait for it %.0f%% of the time)", m.Waiting)
	case m.Available > 0 && bytes > m.Available/2:
		return fmt.Sprintf("memory is short (%d MiB are available, for up to %d MiB)", m.Available>>20, bytes>>20)
	}
	return ""
}

// readMemory is a seam for tests.
var readMemory = func() Memory { return memoryIn("/") }

// memoryIn reads /proc/pressure/memory (Linux's Documentation/accounting/psi.rst) and what memory is available, of the system with
// this root directory.
func memoryIn(root string) (m Memory) {
	if n, known := sys.AvailableMemory(root); known {
		m.Available = max(n, 1)
	}
	if b, err := os.ReadFile(path.Join(root, "proc/pressure/memory")); err == nil {
		_, rest, _ := strings.Cut(string(b), "some avg10=")
		percent, _, _ := strings.Cut(rest, " ")
		m.Waiting, _ = strconv.ParseFloat(percent, 64)
	}
	return m
}
