// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
)

// TestSavedNotRestorable: a guest that can be saved and not restored is told at the save.
func TestSavedNotRestorable(t *testing.T) {
	text := saved(&save.Result{Image: "vm.img", NotRestorable: "is of another architecture"})
	if !strings.Contains(text, "\nvm.img is of another architecture\n") {
		t.Errorf("%q", text)
	}
	if text := saved(&save.Result{Image: "vm.img"}); strings.Count(text, "\n") != 1 {
		t.Errorf("%q", text)
	}
}

// TestRestoredSaysState: only a VM that runs is said to run.
func TestRestoredSaysState(t *testing.T) {
	for status, want := range map[string]string{"running": "running after ", "paused": "loaded (paused) after ", "suspended": "loaded (suspended) after "} {
		if text := restored(restore.Result{Status: status, Mode: restore.Eager}); !strings.HasPrefix(text, want) {
			t.Errorf("%s: %q", status, text)
		}
	}
}
