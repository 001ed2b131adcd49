// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"testing"
)

// TestCommands holds the list of commands to what users and their scripts rely on: none is lost, and none of the programs of the
// source tree (bench, demo) is part of the product.
func TestCommands(t *testing.T) {
	var names []string
	for _, c := range Command().Commands() {
		names = append(names, c.Name())
	}
	want := []string{"clone", "completion", "diff", "export", "import", "inspect", "ls", "restore", "save", "seal", "serve", "verify", "version"}
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("there are the commands\n%v, want\n%v", names, want)
	}
}
