// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/seal"
)

// TestList lists a directory with a base, two diffs of it, a diff whose base is gone, images that are not whole, and what is no image;
// inspect says of the base what hangs on it too.
func TestList(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	small := [2]map[int64]byte{{0: 1}, {0: 4}}
	base := testkit.Handmade(t, at("monday"), nil, [2]map[int64]byte{{0: 1, 1: 2}, {0: 4}})
	testkit.Handmade(t, at("tuesday"), &seal.Base{ID: base, Path: at("monday")}, small)
	// Moved together: the base is found beside the diff.
	testkit.Handmade(t, at("wednesday"), &seal.Base{ID: base, Path: "/nowhere/monday"}, small)
	gone := testkit.Handmade(t, at("gone"), nil, [2]map[int64]byte{{3: 3}, {}})
	testkit.Handmade(t, at("orphan"), &seal.Base{ID: gone, Path: at("gone")}, small)
	testkit.Check(t, os.Remove(at("gone")))
	testkit.Check(t, os.Rename(testkit.SmallImage().Write(t), at("unsealed")))
	whole, err := os.ReadFile(at("unsealed"))
	testkit.Check(t, err)
	testkit.Check(t, os.WriteFile(at("cut"), whole[:len(whole)/2], 0o600))
	testkit.Check(t, os.WriteFile(at("letter"), []byte("Dear reader,\n"), 0o600))
	testkit.Check(t, os.Mkdir(at("directory"), 0o700))
	testkit.Check(t, unix.Mkfifo(at("fifo"), 0o600))
	testkit.Check(t, os.Symlink("nothing", at("link")))

	r, err := List(dir)
	testkit.Check(t, err)
	type row struct {
		image, found string
		complete     bool
		neededBy     []string
	}
	var got []row
	for _, i := range r.Images {
		one := row{image: filepath.Base(i.Image), complete: i.Complete, neededBy: i.NeededBy}
		if i.Base != nil {
			one.found = "nowhere"
			if i.Base.Found != "" {
				one.found = filepath.Base(i.Base.Found)
			}
		}
		got = append(got, one)
		if i.Error == "" && (i.Sealed != (i.ID != "") || i.Machine == "" || i.Created.IsZero() || i.Length == 0) {
			t.Errorf("%+v", i)
		}
	}
	none := []string{}
	want := []row{
		{"cut", "", false, none},
		{"monday", "", true, []string{at("tuesday"), at("wednesday")}},
		{"orphan", "nowhere", true, none},
		{"tuesday", "monday", true, none},
		{"unsealed", "", true, none},
		{"wednesday", "monday", true, none},
	}
	if !reflect.DeepEqual(got, want) || r.Others != 1 {
		t.Errorf("it lists\n%v and %d others, want\n%v and 1", got, r.Others, want)
	}
	for image, want := range map[string][]string{"monday": {at("tuesday"), at("wednesday")}, "tuesday": {}, "unsealed": {}} {
		r, err := Inspect(Options{Image: at(image)})
		testkit.Check(t, err)
		if !reflect.DeepEqual(r.NeededBy, want) {
			t.Errorf("%s is needed by %v, want %v", image, r.NeededBy, want)
		}
	}
	if _, err := List(at("nowhere")); err == nil || !strings.Contains(err.Error(), "there is no directory") {
		t.Errorf("of no directory: %v", err)
	}
	if _, err := List(at("letter")); err == nil || !strings.Contains(err.Error(), "is not a directory") {
		t.Errorf("of a file: %v", err)
	}
}

// TestVMName finds the name in the ways in which QEMU takes it (system/vl.c, parse_name).
func TestVMName(t *testing.T) {
	for line, want := range map[string]string{
		"-m 1G": "", "-name vm1": "vm1", "-name guest=vm1,debug-threads=on": "vm1", "-name vm1,process=x -m 1G": "vm1",
		"-name debug-threads=on": "", "--name a -name b": "b", "-name a,,b": "a,b",
	} {
		if got := vmName(strings.Fields(line)); got != want {
			t.Errorf("%q names %q, want %q", line, got, want)
		}
	}
}
