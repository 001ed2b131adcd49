// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
)

// TestRestoreSaysWhatIsWrongFirst has an image and a QEMU that are both wrong: a restore looks at both at a time, and
// must not blame now the one and now the other.
func TestRestoreSaysWhatIsWrongFirst(t *testing.T) {
	for _, mode := range []Mode{Instant, Eager} {
		t.Run(string(mode), func(t *testing.T) { saysWhatIsWrongFirst(t, mode) })
	}
}

func saysWhatIsWrongFirst(t *testing.T, mode Mode) {
	img := testkit.SmallImage().Sealed(t)
	restored := func(program string) error {
		_, err := Restore(context.Background(), Options{Image: img, Mode: mode, Detach: true, Command: []string{program, "-m", "4M"}})
		if err == nil {
			t.Fatal(program + " has become a VM")
		}
		return err
	}
	for range 20 {
		if err := restored("/bin/false"); !strings.Contains(err.Error(), "QEMU ended") {
			t.Fatal(err)
		}
	}
	silent := filepath.Join(t.TempDir(), "silent")
	testkit.Check(t, os.WriteFile(silent, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700))
	testkit.Flip(t, img, 8*(opened(t, img).Blocks[0].BitmapOffset+3))
	for range 20 {
		// The second never greets, and would be waited for.
		for _, program := range []string{"/bin/false", silent} {
			if err := restored(program); !errors.Is(err, mappedram.ErrDamaged) || strings.Contains(err.Error(), "QEMU") {
				t.Fatal(err)
			}
		}
	}
}

// opened opens an image for the rest of a test.
func opened(t testing.TB, path string) *image.File {
	t.Helper()
	img, err := image.OpenFile(path, nil)
	testkit.Check(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}
