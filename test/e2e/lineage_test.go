// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/export"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/inspect"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestLineage looks at a diff, its base, and a whole image of the diff's moment: what looks at images takes a diff for
// what it stands for.
func TestLineage(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "256M", Backend: vm.Memfd, Fill: 64})
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	base, diff, full, flat := at("base"), at("diff"), at("full"), at("flat")
	saveVM(t, v, base)
	work(t, v)
	if err := v.Stop(); err != nil {
		t.Fatal(err)
	}
	saveVM(t, v, diff, "--base", base)
	saveVM(t, v, full)

	changes := must[inspect.DiffResult](t, "diff", base, full)
	if got := must[inspect.DiffResult](t, "diff", base, diff); got.PagesDiffer != changes.PagesDiffer || got.PagesDiffer < 500 || got.Same {
		t.Errorf("%d pages differ from the diff, %d from the whole image", got.PagesDiffer, changes.PagesDiffer)
	}
	if got := must[inspect.DiffResult](t, "diff", diff, full); got.PagesDiffer != 0 {
		t.Errorf("between the diff and the whole image: %+v", got)
	}
	if r := must[image.VerifyResult](t, "verify", diff); !r.OK {
		t.Errorf("verify: %+v", r)
	}
	i := must[inspect.Result](t, "inspect", diff)
	if b := must[inspect.Result](t, "inspect", base); i.Base == nil || i.Base.ID.String() != b.ID || b.Base != nil {
		t.Errorf("the diff's base is %+v, not %s", i.Base, b.ID)
	}
	if o := ramjet(t, "inspect", "--map", diff); !strings.Contains(o.out, "changed") || !strings.Contains(o.out, "not in the image") || !strings.Contains(o.out, base) {
		t.Errorf("inspect says\n%s", o.out)
	}

	must[export.Result](t, "export", "--format", "flat", diff, flat)
	if got := must[inspect.DiffResult](t, "diff", flat, full); got.PagesDiffer != 0 {
		t.Errorf("between the flat and the whole image: %+v", got)
	}
	if r := must[image.VerifyResult](t, "verify", flat); !r.OK || must[inspect.Result](t, "inspect", flat).Base != nil {
		t.Errorf("flat: %+v", r)
	}
	var raw [2][]byte
	for k, image := range []string{diff, full} {
		out := at("raw")
		must[export.Result](t, "export", "--force", "--format", "raw", "--block", "ram0", image, out)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		raw[k] = b
	}
	if !bytes.Equal(raw[0], raw[1]) {
		t.Error("raw exports of the diff and the whole image are not the same")
	}

	bad := at("bad")
	if err := os.Rename(base, bad); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"diff", diff, full}, {"export", "--format", "flat", diff, at("x")}} {
		refused(t, 1, []string{"--base"}, args...)
		if o := ramjet(t, append(args, "--base", bad)...); o.status != 0 {
			t.Errorf("%s --base: %s", args, o.err)
		}
		os.Remove(at("x"))
	}
	_, page := storedPage(t, open(t, bad), "ram0")
	flip(t, bad, page)
	refused(t, 3, []string{"damaged", "ram0"}, "export", "--format", "elf", "--base", bad, diff, at("x"))
	if _, err := os.Stat(at("x")); err == nil {
		t.Error("a failed export leaves a file")
	}
}
