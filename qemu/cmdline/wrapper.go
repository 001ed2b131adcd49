// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"path/filepath"
	"strings"
)

// IsQEMU tells whether a file name is a QEMU system emulator's. Red Hat's is qemu-kvm.
func IsQEMU(name string) bool { return strings.HasPrefix(name, "qemu-system-") || name == "qemu-kvm" }

// SplitCommand divides a command at the word that is a QEMU: what stands before it (nice -n 5, env, ip netns exec NAME) runs it and is
// no option of QEMU's. A command that begins with an option has no program. Where no word is known to be a QEMU the first one is taken
// for it.
func SplitCommand(words []string) (wrapper []string, program string, args []string) {
	if len(words) == 0 || strings.HasPrefix(words[0], "-") {
		return nil, "", words
	}
	for i, w := range words {
		if base := filepath.Base(w); strings.HasPrefix(base, "qemu-system-") || base == "qemu-kvm" {
			return words[:i], w, words[i+1:]
		}
	}
	return nil, words[0], words[1:]
}
