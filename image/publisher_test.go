// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/attendant"
	"github.com/ramjet-vm/ramjet/internal/testkit"
)

func TestMain(m *testing.M) {
	attendant.Main(Publisher)
	os.Exit(m.Run())
}

// TestPublisher has the publisher name an image, with a temporary name and without, over another file and not, wherever the directory
// is by then; and give it up. (Issue 15, point 18.)
func TestPublisher(t *testing.T) {
	for _, c := range []struct {
		what                  string
		named, force, another bool
	}{
		{"unnamed", false, false, false}, {"named", true, false, false}, {"in place of another", false, true, true},
		{"named, in place of another", true, true, true}, {"over another", false, false, true}, {"named, over another", true, false, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			before, after := filepath.Join(t.TempDir(), "images \xe9"), filepath.Join(t.TempDir(), "moved")
			testkit.Check(t, os.Mkdir(before, 0o700))
			n, err := NewTarget(filepath.Join(before, "image \xe9"), c.force, nil)
			testkit.Check(t, err)
			if c.named {
				n.File.Close()
				f, err := directio.Names{}.Create(n.hidden)
				testkit.Check(t, err)
				n.File, err = directio.NewFile(f, nil)
				testkit.Check(t, err)
				n.named = true
			}
			testkit.Check(t, n.StartPublisher())
			_, err = n.File.WriteAt([]byte("new"), 0)
			testkit.Check(t, err)
			testkit.Check(t, os.Rename(before, after))
			image := filepath.Join(after, "image \xe9")
			if c.another {
				testkit.Check(t, os.WriteFile(image, []byte("old"), 0o600))
			}
			_, err = n.Publish(false)
			want := "new"
			if c.another && !c.force {
				want = "old"
				if !errors.Is(err, unix.EEXIST) && (err == nil || !strings.Contains(err.Error(), "come into being")) || strings.Contains(err.Error(), "/proc/") {
					t.Errorf("%v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			n.Discard()
			if got, err := os.ReadFile(image); err != nil || string(got) != want {
				t.Errorf("%q, %v", got, err)
			}
			if list, _ := os.ReadDir(after); len(list) != 1 {
				t.Errorf("there are %v", list)
			}
		})
	}
	n, err := NewTarget(filepath.Join(t.TempDir(), "image"), false, nil)
	testkit.Check(t, err)
	testkit.Check(t, n.StartPublisher())
	n.Discard()
	if _, err := os.Stat(n.path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what was given up is there")
	}
}
