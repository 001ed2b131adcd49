// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ramjet-vm/ramjet/export"
	"github.com/ramjet-vm/ramjet/inspect"
)

// raw exports memory as it lies in QEMU, and as QEMU's pmemsave writes it wherever the guest sees its memory: nothing is left out of
// the comparison but what another device covers, as info mtree says (a video card's window at 0xa0000).
func (i *images) raw(t *testing.T) {
	out := filepath.Join(i.dir, "ram.raw")
	must[export.Result](t, "export", "--format", "raw", "--block", "ram0", i.image, out)
	mine := file(t, out)
	base, err := i.v.Human("gpa2hva 0x0")
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.ParseInt(regexp.MustCompile(`0x[0-9a-f]+$`).FindString(strings.TrimSpace(base)), 0, 64)
	if err != nil {
		t.Fatalf("%v: %s", err, base)
	}
	alike(t, "the block in QEMU's memory", mine, 0, file(t, fmt.Sprintf("/proc/%d/mem", i.v.PID)), at, 256<<20)
	theirs := filepath.Join(i.dir, "pmemsave")
	if err := i.v.Execute("pmemsave", map[string]any{"val": 0, "size": 256 << 20, "filename": theirs}, nil); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(theirs)
	pmem := file(t, theirs)
	for _, m := range i.seen(t) {
		alike(t, "pmemsave", mine, m.offset, pmem, m.address, m.length)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(out, &st); err != nil || st.Blocks*512 > 200<<20 {
		t.Errorf("the export takes %d MiB: it has no holes (%v)", st.Blocks>>11, err)
	}
	refused(t, 1, []string{"exists", "--force"}, "export", "--format", "raw", "--block", "ram0", i.image, out)
	refused(t, 1, []string{"no memory", "pc.ram"}, "export", "--format", "raw", "--block", "pc.ram", i.image, out+"x")
	refused(t, 2, []string{"--format"}, "export", i.image, out)
	os.Remove(out)
}

// seen is a range of physical memory where the guest sees its RAM, and its offset in that.
type seen struct{ address, length, offset int64 }

// seenRAM is a line of info mtree -f: 0000000000100000-000000000fffffff (prio 0, ram): ram0 @0000000000100000
var seenRAM = regexp.MustCompile(`(?m)^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio \d+, (?:ram|rom)\): ram0(?: @([0-9a-f]{16}))?(?: KVM)?\r?$`)

// seen asks QEMU where the guest sees its RAM just now. Everywhere, but for at most the window of a video card: Linux has
// made the RAM below the firmware visible.
func (i *images) seen(t *testing.T) (list []seen) {
	t.Helper()
	text, err := i.v.Human("info mtree -f")
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, view := range strings.Split(text, "FlatView") {
		if !strings.Contains(view, `AS "memory"`) {
			continue
		}
		for _, m := range seenRAM.FindAllStringSubmatch(view, -1) {
			var n [3]int64
			for k, s := range m[1:] {
				n[k], _ = strconv.ParseInt(s, 16, 64)
			}
			list = append(list, seen{n[0], n[1] + 1 - n[0], n[2]})
			sum += n[1] + 1 - n[0]
		}
	}
	if sum < 256<<20-0x20000 {
		t.Fatalf("only %#x bytes of RAM are seen by the guest: %#x in\n%s", sum, list, text)
	}
	t.Logf("the guest sees %#x bytes of its RAM of %#x: %#x", sum, 256<<20, list)
	return list
}

func file(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// alike compares n bytes of a and b.
func alike(t *testing.T, what string, a io.ReaderAt, at int64, b io.ReaderAt, bt, n int64) {
	t.Helper()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for n > 0 {
		k := min(n, int64(len(p)))
		if _, err := a.ReadAt(p[:k], at); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadAt(q[:k], bt); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for x := range k {
			if p[x] != q[x] {
				t.Fatalf("offset %#x is %#x, and %#x in %s, offset %#x", at+x, p[x], q[x], what, bt+x)
			}
		}
		at, bt, n = at+k, bt+k, n-k
	}
}

// imported takes an image apart and makes one of the parts, which restores.
func (i *images) imported(t *testing.T) {
	parts, image := filepath.Join(i.dir, "parts"), filepath.Join(i.dir, "imported")
	must[export.Result](t, "export", "--format", "raw", i.image, parts)
	must[export.ImportResult](t, "import", parts, image)
	d := must[inspect.DiffResult](t, "diff", i.image, image)
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
	saveVM(t, i.v, image)
	r := must[export.Result](t, "export", "--format", "elf", image, core)
	if r.CPUs != 1 || len(r.Segments) != 1 || r.Segments[0].Length != 256<<20 {
		t.Errorf("result %+v", r)
	}
	i.dump(t, core)
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

// dump compares a core with the one that QEMU's dump-guest-memory writes: the processors' notes, the memory wherever the guest sees
// it, and that nothing else of QEMU's is main memory.
func (i *images) dump(t *testing.T, core string) {
	theirs := filepath.Join(i.dir, "theirs")
	if err := i.v.Execute("dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + theirs}, nil); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(theirs)
	mine, qemus := elfFile(t, core), elfFile(t, theirs)
	notes := func(f *elf.File) []byte {
		b, err := io.ReadAll(f.Progs[0].Open())
		if err != nil || f.Progs[0].Type != elf.PT_NOTE || len(b) == 0 {
			t.Fatalf("no notes: %v", err)
		}
		return b
	}
	if a, b := notes(mine), notes(qemus); !bytes.Equal(a, b) {
		t.Errorf("notes\n%x\nQEMU's are\n%x", a, b)
	}
	var sum int64
	for _, m := range i.seen(t) {
		alike(t, "QEMU's dump", physical(t, mine, m), m.address, physical(t, qemus, m), m.address, m.length)
		sum += m.length
	}
	for _, p := range qemus.Progs[1:] {
		if p.Paddr < 256<<20 {
			sum -= int64(p.Memsz)
		}
	}
	if sum != 0 {
		t.Errorf("QEMU's dump has %#x bytes more of main memory", -sum)
	}
}

func elfFile(t *testing.T, path string) *elf.File {
	t.Helper()
	f, err := elf.NewFile(file(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// physical reads physical memory of a core: the segment that has m.
func physical(t *testing.T, f *elf.File, m seen) io.ReaderAt {
	t.Helper()
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && int64(p.Paddr) <= m.address && m.address+m.length <= int64(p.Paddr+p.Filesz) {
			return atAddress{p, int64(p.Paddr)}
		}
	}
	t.Fatalf("no segment has %#x: %+v", m, f.Progs)
	return nil
}

// atAddress reads a segment by address.
type atAddress struct {
	r  io.ReaderAt
	at int64
}

func (a atAddress) ReadAt(p []byte, address int64) (int, error) { return a.r.ReadAt(p, address-a.at) }

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
