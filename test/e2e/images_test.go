// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/inspect"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestImages looks at images of one guest in every way that a user can.
func TestImages(t *testing.T) {
	v := vm.Run(t, vm.Config{Memory: "256M", Backend: vm.Memfd, Fill: 40, ExtraArgs: []string{"-device", "VGA", "-object", "secret,id=s0,data=hunter2"}})
	i := &images{v: v, dir: t.TempDir()}
	i.image = filepath.Join(i.dir, "image")
	i.sum = whole(t, v).Sum
	i.address = where(t, v, 1000)
	if err := v.Stop(); err != nil {
		t.Fatal(err)
	}
	saveVM(t, v, i.image)
	t.Run("verify", i.verify)
	t.Run("restore checks", i.restoreChecks)
	t.Run("secrets", i.secrets)
	t.Run("scrub", i.scrub)
	t.Run("raw", i.raw)
	t.Run("import", i.imported)
	t.Run("elf", i.elf)
	t.Run("seal", i.seal)
	t.Run("device state", i.deviceState)
	t.Run("libvirt", i.libvirt)
}

// images is what its subtests share: a guest that is stopped, and its image.
type images struct {
	v          *vm.VM
	dir, image string
	sum        uint64 // of the guest's memory
	address    uint64 // physical, of one of the guest's pages
}

// where is the physical address of a page of the guest's.
func where(t *testing.T, v *vm.VM, page int) uint64 {
	t.Helper()
	s, err := v.Command(fmt.Sprintf("where %d", page))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "where "), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// copy copies the image, holes kept, for a test to damage.
func (i *images) copy(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "--sparse=always", i.image, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// open opens an image for a test that needs to know where things are in it.
func open(t *testing.T, path string) *mappedram.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := mappedram.Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// flip flips a bit of the byte at an offset.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// storedPage is the number and the offset of a stored page of a block, some way in.
func storedPage(t *testing.T, m *mappedram.Image, block string) (page, at int64) {
	t.Helper()
	i := m.Index(block)
	stored, err := m.Bitmap(i)
	if err != nil {
		t.Fatal(err)
	}
	for first, end := range stored.Runs(m.Blocks[i].Pages()) {
		if end > m.Blocks[i].Pages()/4 {
			return first, m.Blocks[i].PagesOffset + first*4096
		}
	}
	t.Fatalf("block %s stores nothing", block)
	return 0, 0
}

func (i *images) verify(t *testing.T) {
	r := must[image.VerifyResult](t, "verify", i.image)
	if !r.OK || !r.Sealed || r.PagesChecked == 0 {
		t.Errorf("result %+v", r)
	}
	t.Logf("%d MiB at %.0f MiB/s (%s)", r.BytesChecked>>20, r.BytesPerSecond/(1<<20), r.IO)
	bad := i.copy(t)
	page, at := storedPage(t, open(t, bad), "ram0")
	flip(t, bad, at+5)
	o := refused(t, 3, []string{"damaged", "1 of"}, "verify", bad)
	want := image.BadPage{Block: "ram0", Page: page, Offset: at}
	if !strings.Contains(o.out, want.String()) || !strings.Contains(o.err, want.String()) {
		t.Errorf("neither %q nor %q names %s", o.out, o.err, want)
	}
	refused(t, 2, []string{"channels"}, "verify", "--channels", "256", i.image)
	refused(t, 1, []string{"there is no image"}, "verify", i.image+"x")
}

func (i *images) restoreChecks(t *testing.T) {
	restore := func(image string, flags ...string) []string {
		dir := t.TempDir()
		args := append(append([]string{"restore", "--detach", "--paused", image}, flags...), "--", i.v.Program)
		return append(args, i.v.ArgsIn(dir)...)
	}
	m := open(t, i.image)
	bad := i.copy(t)
	_, at := storedPage(t, m, "ram0")
	flip(t, bad, at)
	refused(t, 3, []string{"damaged", "ram0"}, restore(bad, "--mode", "eager")...)
	refused(t, 3, []string{"damaged", "ram0"}, restore(bad, "--verify")...)

	bad = i.copy(t)
	_, at = storedPage(t, m, "pc.bios")
	flip(t, bad, at)
	refused(t, 3, []string{"damaged", "pc.bios"}, restore(bad)...)

	bad = i.copy(t)
	flip(t, bad, m.SectionsOffset+m.SectionsLength/2)
	for _, mode := range []string{"instant", "eager"} {
		refused(t, 3, []string{"damaged", "device state"}, restore(bad, "--mode", mode)...)
	}
	refused(t, 2, []string{"--scrub"}, restore(i.image, "--scrub")...)
}

// scrub restores in the foreground, once from an image that is well and once from one that is not.
func (i *images) scrub(t *testing.T) {
	bad := i.copy(t)
	_, at := storedPage(t, open(t, bad), "ram0")
	flip(t, bad, at)
	for _, try := range []struct {
		command     []string
		image, want string
	}{
		{[]string{"restore"}, i.image, "is whole"}, {[]string{"restore"}, bad, "damaged: page"}, {[]string{"clone", "-n", "1"}, bad, "damaged: page"},
	} {
		want := try.want
		args := append(append(try.command, "--scrub", try.image, "--", i.v.Program), i.v.ArgsIn(t.TempDir())...)
		c := exec.Command(program, args...)
		said, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c.Stderr = w
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		said.SetReadDeadline(time.Now().Add(time.Minute))
		var text bytes.Buffer
		for b := make([]byte, 4096); !strings.Contains(text.String(), want); {
			n, err := said.Read(b)
			text.Write(b[:n])
			if err != nil {
				t.Errorf("%v; it said %q, want %q", err, text.String(), want)
				break
			}
		}
		c.Process.Signal(syscall.SIGTERM)
		io.Copy(io.Discard, said)
		c.Wait()
		said.Close()
	}
}

// secrets looks for one in what is recorded.
func (i *images) secrets(t *testing.T) {
	b, err := os.ReadFile(i.image)
	if err != nil {
		t.Fatal(err)
	}
	if start := open(t, i.image).StreamEnd; bytes.Contains(b[start:], []byte("hunter2")) {
		t.Error("the seal records a secret")
	}
	if o := ramjet(t, "inspect", i.image); !strings.Contains(o.out, "secret,id=s0,data=BLANKED") || !strings.Contains(o.out, "ram0") {
		t.Errorf("recorded is %s", o.out)
	}
	refused(t, 1, []string{"without its secrets", "secret,id=s0", "after --"}, "restore", "--detach", i.image)
}

// deviceState compares what inspect reads out of QEMU's own image with what QEMU's monitor says.
func (i *images) deviceState(t *testing.T) {
	r := must[inspect.Result](t, "inspect", "--device-state", filepath.Join(i.dir, "qemu"))
	want := map[string]uint64{"env.eip": i.register(t, "RIP"), "env.cr[3]": i.register(t, "CR3"), "env.cr[0]": i.register(t, "CR0")}
	for _, d := range r.Devices {
		if d.Name != "cpu" {
			continue
		}
		for _, f := range d.Fields {
			if n, ok := want[f.Path]; ok && f.Value == fmt.Sprintf("0x%016x", n) {
				delete(want, f.Path)
			}
		}
	}
	if len(want) != 0 {
		t.Errorf("not found, or with other values: %#x", want)
	}
	if native := must[inspect.Result](t, "inspect", "--device-state", i.image); len(native.Devices) != len(r.Devices) {
		t.Errorf("%d sections in Ramjet's own image, %d in QEMU's", len(native.Devices), len(r.Devices))
	}
	if o := ramjet(t, "inspect", "--map", i.image); o.status != 0 || !strings.Contains(o.out, "█") || !strings.Contains(o.out, "ram0 (256MiB)") {
		t.Errorf("map: status %d\n%s", o.status, o.out)
	}
	refused(t, 3, []string{"not an image", "ELF"}, "inspect", program)
}

// seal seals what QEMU itself wrote.
func (i *images) seal(t *testing.T) {
	img := filepath.Join(i.dir, "qemu")
	saveByQEMU(t, i.v, img)
	refused(t, 1, []string{"no seal", "ramjet seal"}, "verify", img)
	r := must[inspect.SealResult](t, "seal", img)
	if got := must[image.VerifyResult](t, "verify", img); got.ID != r.ID || got.PagesChecked != r.PagesStored || r.Format != "qemu" {
		t.Errorf("sealed %+v, verified %+v", r, got)
	}
	refused(t, 1, []string{"sealed already", r.ID}, "seal", img)
}

// libvirt has QEMU write an image as libvirt has it, behind libvirt's header.
func (i *images) libvirt(t *testing.T) {
	const offset = 4096
	img := filepath.Join(i.dir, "libvirt")
	xml := "<domain type='kvm'><name>guest &amp; co</name></domain>"
	head := append([]byte("LibvirtQemudSave"), binary.LittleEndian.AppendUint32(nil, 2)...)
	for _, v := range []uint32{offset - 92, 0, 6, 0} {
		head = binary.LittleEndian.AppendUint32(head, v)
	}
	head = append(append(head, make([]byte, 92-len(head))...), xml...)
	if err := os.WriteFile(img, append(head, make([]byte, offset-len(head))...), 0o600); err != nil {
		t.Fatal(err)
	}
	// QEMU saves a VM that it has saved only after that has run.
	if err := errors.Join(i.v.Cont(), i.v.Stop()); err != nil {
		t.Fatal(err)
	}
	saveByQEMU(t, i.v, fmt.Sprintf("%s,offset=%d", img, offset))
	must[inspect.SealResult](t, "seal", img)
	must[image.VerifyResult](t, "verify", img)
	r := must[inspect.Result](t, "inspect", img)
	if r.Format != "libvirt" || r.StreamOffset != offset || !r.Sealed || !r.Complete {
		t.Errorf("inspect: %+v", r)
	}
	if o := ramjet(t, "inspect", img); !strings.Contains(o.out, `format sparse, domain "guest & co"`) {
		t.Errorf("inspect says %s", o.out)
	}
	whole(t, i.goesOn(t, img, "--mode", "eager"))
}

// goesOn restores an image in which the VM stood still and lets it go on.
func (i *images) goesOn(t *testing.T, image string, flags ...string) *vm.VM {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"restore", "--detach", image, "--json"}, flags...)
	args = append(append(args, "--", i.v.Program), i.v.ArgsIn(dir)...)
	if o := ramjet(t, args...); o.status != 0 {
		t.Fatal(o.err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v, err := vm.Connect(ctx, vm.SerialIn(dir), vm.QMPIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Kill() })
	if err := v.Cont(); err != nil {
		t.Fatal(err)
	}
	return v
}

// saveByQEMU has QEMU write an image, without ramjet.
func saveByQEMU(t *testing.T, v *vm.VM, image string) {
	t.Helper()
	for _, c := range []struct {
		command string
		args    map[string]any
	}{
		{"migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "mapped-ram", "state": true}}}},
		{"migrate-set-parameters", map[string]any{"max-bandwidth": 0}},
		{"migrate", map[string]any{"uri": "file:" + image}},
	} {
		if err := v.Execute(c.command, c.args, nil); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var m struct{ Status string }
		if err := v.Execute("query-migrate", nil, &m); err != nil {
			t.Fatal(err)
		}
		if m.Status == "completed" {
			return
		}
		if m.Status == "failed" || time.Now().After(deadline) {
			t.Fatalf("QEMU's own save: %s", m.Status)
		}
	}
}
