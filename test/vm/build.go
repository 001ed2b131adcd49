// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildRamjet builds the program into dir as it is released, and returns its path.
func BuildRamjet(dir string) (program string, err error) {
	program = filepath.Join(dir, "ramjet")
	build := exec.Command("go", "build", "-o", program, "github.com/ramjet-vm/ramjet/cmd/ramjet")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build ramjet: %w\n%s", err, out)
	}
	return program, nil
}
