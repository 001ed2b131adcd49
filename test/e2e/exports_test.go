// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/ramjet-vm/ramjet/snapshot"
)

// raw exports memory as QEMU itself writes it.
func (i *images) raw(t *testing.T) {
	out := filepath.Join(i.dir, "ram.raw")
	must[snapshot.ExportResult](t, "export", "--format", "raw", "--block", "ram0", i.image, out)
	theirs := filepath.Join(i.dir, "pmemsave")
	if err := i.v.Execute("pmemsave", map[string]any{"val": 0, "size": 256 << 20, "filename": theirs}, nil); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	// Where a PC has its video memory and its firmware the guest sees something else than its RAM (hw/pci-host/pam.c).
	const hole, end = 0xa0000, 0x100000
	if len(a) != len(b) || !bytes.Equal(a[:hole], b[:hole]) || !bytes.Equal(a[end:], b[end:]) {
		for k := range min(len(a), len(b)) {
			if a[k] != b[k] && (k < hole || k >= end) {
				t.Fatalf("%d and %d bytes, the first difference is at %#x", len(a), len(b), k)
			}
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(out, &st); err != nil || st.Blocks*512 > 200<<20 {
		t.Errorf("the export takes %d MiB: it has no holes (%v)", st.Blocks>>11, err)
	}
	refused(t, 1, []string{"exists", "--force"}, "export", "--format", "raw", "--block", "ram0", i.image, out)
	refused(t, 1, []string{"no memory", "pc.ram"}, "export", "--format", "raw", "--block", "pc.ram", i.image, out+"x")
	refused(t, 2, []string{"--format"}, "export", i.image, out)
	os.Remove(theirs)
	os.Remove(out)
}

// imported takes an image apart and makes one of the parts, which restores.
func (i *images) imported(t *testing.T) {
	parts, image := filepath.Join(i.dir, "parts"), filepath.Join(i.dir, "imported")
	must[snapshot.ExportResult](t, "export", "--format", "raw", i.image, parts)
	must[snapshot.ImportResult](t, "import", parts, image)
	d := must[snapshot.DiffResult](t, "diff", i.image, image)
	if !d.Same {
		t.Errorf("after export and import: %+v", d)
	}
	if got := whole(t, i.goesOn(t, image)); got.Sum != i.sum {
		t.Errorf("memory is %v, was %x", got, i.sum)
	}
	refused(t, 1, []string{"image.json"}, "import", i.dir, image+"2")
}

// elf has gdb read a known string at its physical address and the processor's registers.
func (i *images) elf(t *testing.T) {
	const text = "Ramjet was here"
	before := make([]byte, len(text)+1)
	if err := i.v.Peek(i.address, before); err != nil {
		t.Fatal(err)
	}
	if err := i.v.Poke(i.address, append([]byte(text), 0)); err != nil {
		t.Fatal(err)
	}
	defer i.v.Poke(i.address, before)
	image, core := filepath.Join(i.dir, "poked"), filepath.Join(i.dir, "core")
	save(t, i.v, image)
	r := must[snapshot.ExportResult](t, "export", "--format", "elf", image, core)
	if r.CPUs != 1 || len(r.Segments) != 1 || r.Segments[0].Length != 256<<20 {
		t.Errorf("result %+v", r)
	}
	gdb, err := exec.LookPath("gdb")
	if err != nil {
		t.Skip("there is no gdb here")
	}
	out, err := exec.Command(gdb, "-nx", "-batch", "-ex", fmt.Sprintf("x/s %#x", i.address), "-ex", "info registers rip rsp", "-c", core).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(text)) {
		t.Errorf("gdb: %v\n%s", err, out)
	}
	for _, name := range []string{"rip", "rsp"} {
		want := i.register(t, map[string]string{"rip": "RIP", "rsp": "RSP"}[name])
		if !regexp.MustCompile(name + ` +` + regexp.QuoteMeta(fmt.Sprintf("%#x", want)) + `\b`).Match(out) {
			t.Errorf("gdb does not say that %s is %#x:\n%s", name, want, out)
		}
	}
}

// register is a register of the guest's as QEMU's monitor shows it.
func (i *images) register(t *testing.T, name string) uint64 {
	t.Helper()
	text, err := i.v.Human("info registers")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(name + `=([0-9a-f]+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in %s", name, text)
	}
	n, err := strconv.ParseUint(m[1], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
