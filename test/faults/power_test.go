// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// cuts is how many power cuts there are: in a save without an old image and in one that replaces one, half of them each.
func cuts() int {
	if vm.Long() {
		return 4000
	}
	return 400
}

// TestPowerCut cuts the power at a random moment of a save. At the image's name is what was there before, or all of the new
// image; and only that once Save has returned.
func TestPowerCut(t *testing.T) {
	m := newMachine(t, "memfd")
	for _, old := range []bool{false, true} {
		for _, named := range []bool{false, true} {
			name := map[bool]string{false: "no image", true: "old image"}[old] + map[bool]string{false: "", true: ", no unnamed files"}[named]
			t.Run(name, func(t *testing.T) { cutPower(t, m, old, named) })
		}
	}
	m.unharmed(t)
}

func cutPower(t *testing.T, m *machine, old, named bool) {
	p := newPlace(t, m, old)
	var oldCopy []byte
	before := map[string]uint64{}
	if old {
		var err error
		oldCopy, err = os.ReadFile(p.image)
		do(t, err)
		before["image"] = inodeOf(t, p.image)
	}
	d := &diary{}
	calls := sys.Kernel()
	if named {
		withoutUnnamed(calls)
	}
	d.wrap(calls)
	r, err := m.save(p)(t.Context(), calls)
	do(t, err)
	id := r.ID
	dirInode := inodeOf(t, p.dir)
	replay := t.TempDir()
	seed := rand.Uint64()
	t.Logf("%d steps, seed %d", len(d.steps), seed)
	count := map[string]int{}
	for n := range cuts() / 4 {
		rnd := rand.New(rand.NewPCG(seed, uint64(n)))
		cut := rnd.IntN(len(d.steps) + 1)
		if n%3 == 0 { // the end is where most is decided
			cut = len(d.steps) - rnd.IntN(min(10, len(d.steps)))
		}
		names := d.names(rnd, before, dirInode, cut)
		path := filepath.Join(replay, "image")
		do(t, os.RemoveAll(path))
		inode, there := names["image"]
		switch {
		case there && inode == before["image"]:
			do(t, os.WriteFile(path, oldCopy, 0o600))
		case there:
			d.file(t, rnd, inode, cut, path)
		}
		what := whatIs(t, path, p.old, id)
		count[what]++
		if cut == len(d.steps) && what != "new" {
			t.Errorf("power cut %d, after the save: %s", n, what)
		}
		if t.Failed() {
			t.Fatalf("power cut %d after step %d of:\n%s", n, cut, d)
		}
		// Under its temporary name it may be anything but a part that is taken for the whole.
		for name, inode := range names {
			if name != "image" {
				hidden := filepath.Join(replay, "hidden")
				d.file(t, rnd, inode, cut, hidden)
				if r, err := image.Verify(t.Context(), image.VerifyOptions{Image: hidden}); err == nil && r.ID != id {
					t.Errorf("%s is taken for an image", name)
				}
			}
		}
	}
	t.Logf("%d power cuts: %v", cuts()/4, count)
	if count["new"] == 0 || count["new"] == cuts()/4 {
		t.Error("the power was not cut at the moments that matter")
	}
}

// whatIs says what is at the path after a power cut: nothing, old, new; all else is an error.
func whatIs(t *testing.T, path, old, id string) string {
	t.Helper()
	r, err := image.Verify(t.Context(), image.VerifyOptions{Image: path})
	_, none := os.Stat(path)
	switch {
	case errors.Is(none, os.ErrNotExist):
		if old != "" {
			t.Error("the old image is gone")
		}
		return "nothing"
	case err != nil:
		t.Errorf("at the image's name is %v", err)
		if !errors.Is(err, mappedram.ErrImage) {
			t.Error("and verify does not say that it is no image")
		}
		return "damaged"
	case r.ID == id:
		return "new"
	case r.ID != old:
		t.Errorf("the image is %s, it was %s and should be %s", r.ID, old, id)
	}
	return "old"
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	do(t, unix.Stat(path, &st))
	return st.Ino
}
