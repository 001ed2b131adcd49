// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestStockLoads has stock QEMU load what Ramjet saved, in each way that it can.
func TestStockLoads(t *testing.T) {
	for name, c := range map[string]vm.Config{
		"anonymous": {Memory: "256M"},
		"q35 nodes": {Memory: "256M", Machine: "q35", Backend: vm.Memfd, Nodes: 2, CPUs: 2, Net: true, ExtraArgs: everything},
	} {
		t.Run(name, func(t *testing.T) {
			v := boot(t, c)
			before := look(t, v, false)
			image, _ := saveOf(t, v)
			after := look(t, v, false)
			do(t, v.Kill())
			for _, w := range []ways{{}, {multifd: true}, {multifd: true, direct: true}} {
				t.Run(w.String(), func(t *testing.T) {
					g := load(t, v, image, w)
					if s := status(t, g); s != "running" {
						t.Errorf("the loaded VM is %s", s)
					}
					g.Close()
					g = vm.RunAttached(t, g.Serial, g.QMP)
					sameGuest(t, g, before, after, false)
					g.Kill()
				})
			}
		})
	}
}

// TestRestoresStock has Ramjet restore what stock QEMU saved by itself: stopped, and while the guest
// worked, which leaves pages in the file that do not count.
func TestRestoresStock(t *testing.T) {
	v := boot(t, vm.Config{Memory: "256M", Backend: vm.Memfd})
	for _, w := range []ways{{}, {multifd: true}, {multifd: true, direct: true}, {offset: 4097}, {multifd: true, direct: true, offset: 72993}} {
		t.Run(w.String(), func(t *testing.T) {
			image := filepath.Join(directory(t), "image")
			do(t, v.Cont())
			before := look(t, v, false)
			do(t, v.Stop())
			migrate(t, v, image, w)
			for _, mode := range []string{"instant", "eager"} {
				dir, _ := bring(t, v, false, image, "--mode", mode)
				wokenUp(t, sleeping(t, dir), before, before)
			}
		})
	}
	t.Run("live", func(t *testing.T) {
		image := filepath.Join(directory(t), "image")
		do(t, v.Cont())
		do(t, v.Dirty(2)) // little, because of what QEMU may lose (TestLive)
		migrate(t, v, image, ways{})
		do(t, v.Cont())
		do(t, v.Dirty(0))
		for _, mode := range []string{"instant", "eager"} {
			g := revive(t, v, false, image, "--mode", mode)
			do(t, g.Dirty(0))
			whole(t, g)
			g.Kill()
		}
	})
	t.Run("stale", func(t *testing.T) { stale(t, v) })
}

// stale puts bytes into places of pages that are zero, as a live save of QEMU's may leave and as whoever writes into a
// file's holes does. They must not come back, whoever wrote the image.
func stale(t *testing.T, v *vm.VM) {
	dir := directory(t)
	qemus, ramjets := filepath.Join(dir, "qemu"), filepath.Join(dir, "ramjet")
	do(t, v.Cont())
	before := look(t, v, false)
	do(t, v.Stop())
	saveVM(t, v, ramjets)
	migrate(t, v, qemus, ways{})
	do(t, v.Cont())
	n := int64(0)
	for _, image := range []string{qemus, ramjets} {
		n = fillHoles(t, v, image)
		for _, mode := range []string{"instant", "eager"} {
			dir, _ := bring(t, v, false, image, "--mode", mode)
			wokenUp(t, sleeping(t, dir), before, before)
		}
	}
	must[struct{}](t, "seal", qemus)
	if r := must[image.VerifyResult](t, "verify", qemus); r.PagesStale != n {
		t.Errorf("%d pages are stale, want %d", r.PagesStale, n)
	}
	dir, _ = bring(t, v, false, qemus)
	wokenUp(t, sleeping(t, dir), before, before)
	refused(t, 3, []string{fmt.Sprintf("%d pages are zero and hold something else", n)}, "verify", ramjets)
	dir = t.TempDir()
	refused(t, 3, []string{"hold something else"}, append([]string{"restore", "--detach", "--verify", ramjets, "--", v.Program}, v.ArgsIn(dir)...)...)
}

// fillHoles writes into the places of pages that an image does not store, and returns how many those are.
func fillHoles(t *testing.T, v *vm.VM, image string) (written int64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	do(t, err)
	defer f.Close()
	m := open(t, image)
	stored, err := m.Bitmap(m.Index("ram0"))
	do(t, err)
	ram := m.Blocks[m.Index("ram0")]
	for page := 1000; page < 2500; page++ {
		at, err := v.Where(page)
		do(t, err)
		if stored.Get(int64(at) / 4096) {
			continue
		}
		_, err = f.WriteAt(bytes.Repeat([]byte("stale"), 4096)[:4096], ram.PagesOffset+int64(at))
		do(t, err)
		written++
	}
	if written < 1000 {
		t.Fatalf("only %d zero pages were found", written)
	}
	return written
}

// TestFirmware restores an image in which a page of the flash is zero that is not so in the file which the loading QEMU
// fills it from: the guest has to see what the image says.
func TestFirmware(t *testing.T) {
	bios, err := os.ReadFile("/usr/share/seabios/bios-256k.bin")
	if err != nil {
		t.Skipf("no firmware for the flash: %v", err)
	}
	flash := filepath.Join(directory(t), "flash")
	do(t, os.WriteFile(flash, bios, 0o600))
	v := boot(t, vm.Config{Memory: "128M", Fill: 20, ExtraArgs: []string{"-drive", "if=pflash,format=raw,readonly=on,file=" + flash}})
	image := filepath.Join(directory(t), "image")
	do(t, v.Stop())
	migrate(t, v, image, ways{})
	do(t, v.Kill())
	m := open(t, image)
	rom := slices.IndexFunc(m.Blocks, func(b mappedram.Block) bool { return b.Name == "system.flash0" })
	stored, err := m.Bitmap(rom)
	do(t, err)
	const page = 40
	if !stored.Get(page) || !stored.Get(page-1) {
		t.Fatal("the page of the firmware is zero anyway")
	}
	stored.Clear(page)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	do(t, err)
	defer f.Close()
	do(t, m.WriteBitmap(f, rom, stored))
	for _, mode := range []string{"instant", "eager"} {
		dir, _ := bring(t, v, false, image, "--mode", mode)
		g := sleeping(t, dir)
		if p := pageOf(t, g, m.Blocks[rom].Name, page-1); bytes.Equal(p, make([]byte, 4096)) {
			t.Errorf("%s: the page before it is zero too", mode)
		}
		if p := pageOf(t, g, m.Blocks[rom].Name, page); !bytes.Equal(p, make([]byte, 4096)) {
			t.Errorf("%s: the page is not zero", mode)
		}
		g.Kill()
	}
}

// pageOf reads a page of a RAM block of a VM.
func pageOf(t *testing.T, v *vm.VM, block string, page uint64) []byte {
	t.Helper()
	monitor, err := qmp.Dial(t.Context(), v.QMP)
	do(t, err)
	defer monitor.Close()
	blocks, err := qemu.QueryRAMBlocks(t.Context(), monitor)
	do(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", v.PID))
	do(t, err)
	defer mem.Close()
	p := make([]byte, 4096)
	for _, b := range blocks {
		if b.Name == block {
			_, err = mem.ReadAt(p, int64(b.Addr+page*4096))
			do(t, err)
			return p
		}
	}
	t.Fatalf("there is no block %s", block)
	return nil
}

// TestNotImages is about files that Ramjet cannot restore: it says why in a line.
func TestNotImages(t *testing.T) {
	v := boot(t, vm.Config{Memory: "128M", Fill: 20})
	image, _ := saveOf(t, v)
	plain := filepath.Join(directory(t), "plain")
	migratePlain(t, v, plain)
	good, err := os.ReadFile(image)
	do(t, err)
	block := open(t, image).Blocks[0]
	for _, c := range []struct {
		name  string
		file  func() []byte
		words []string
	}{
		{"plain", func() []byte { b, err := os.ReadFile(plain); do(t, err); return b }, []string{"mapped-ram", "save"}},
		{"newer", func() []byte {
			b := bytes.Clone(good)
			binary.BigEndian.PutUint32(b[block.BitmapOffset-28:], 2)
			return b
		}, []string{"version 2", "newer ramjet"}},
		{"arm", otherArchitecture, []string{"architecture"}},
		{"truncated in the pages", func() []byte { return good[:block.PagesOffset+block.Length/2] }, []string{"not complete"}},
		{"truncated in the devices", func() []byte { return good[:open(t, image).SectionsOffset+500] }, []string{"not complete"}},
		{"truncated in the header", func() []byte { return good[:100] }, []string{"not complete"}},
		{"without its first bytes", func() []byte { return append(make([]byte, 8), good[8:]...) }, []string{"not"}},
		{"random", func() []byte { return noise(3 << 20) }, []string{"not an image"}},
		{"random small", func() []byte { return noise(7) }, []string{"not an image"}},
		{"empty", func() []byte { return nil }, []string{"empty"}},
		{"text", func() []byte { return []byte("#!/bin/sh\nexit 1\n") }, []string{"not an image"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(directory(t), "file")
			do(t, os.WriteFile(path, c.file(), 0o600))
			for _, mode := range []string{"instant", "eager"} {
				args := append([]string{"restore", "--detach", "--mode", mode, path, "--", v.Program}, v.ArgsIn(directory(t))...)
				status := 3
				if c.name == "arm" {
					status = 1 // a good image, for others
				}
				refused(t, status, append(c.words, path), args...)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		refused(t, 1, []string{"there is no image"}, "restore", filepath.Join(directory(t), "x"))
	})
	t.Run("directory", func(t *testing.T) { refused(t, 1, []string{"not a regular file"}, "restore", directory(t)) })
	t.Run("device", func(t *testing.T) { refused(t, 1, []string{"not a regular file"}, "restore", "/dev/zero") })
}

// migratePlain has QEMU write a stream in which pages have no places.
func migratePlain(t *testing.T, v *vm.VM, path string) {
	t.Helper()
	m, err := qmp.Dial(t.Context(), v.QMP)
	do(t, err)
	defer m.Close()
	do(t, m.Execute(t.Context(), "migrate-set-parameters", map[string]any{"max-bandwidth": 0}, nil))
	do(t, m.Execute(t.Context(), "migrate", map[string]any{"uri": "file:" + path}, nil))
	if s, why := migrated(t, m); s != "completed" {
		t.Fatalf("QEMU's own save %s: %s", s, why)
	}
}

// otherArchitecture is the beginning of an Arm guest's image.
func otherArchitecture() []byte {
	b := []byte("QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x08virt-9.1")
	b = append(b, "\x05\x1econfiguration/target-page-bits\x00\x00\x00\x01\x00\x00\x00\x0c"...)
	b = append(b, "\x05\x1aconfiguration/capabilities\x00\x00\x00\x01\x00\x00\x00\x01\x0amapped-ram"...)
	b = append(b, "\x01\x00\x00\x00\x02\x03ram\x00\x00\x00\x00\x00\x00\x00\x04"...)
	b = binary.BigEndian.AppendUint64(b, 0x100000|4)
	at := len(b) + 1 + len("mach-virt.ram") + 8 + 28
	b = append(append(b, 13), "mach-virt.ram"...)
	b = binary.BigEndian.AppendUint64(b, 0x100000)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint64(b, 4096)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint64(b, 0x100000)
	b = append(b, make([]byte, 0x200000-len(b))...)
	b = binary.BigEndian.AppendUint64(b, 0x10)
	b = append(b, 0x7e, 0, 0, 0, 2, 3, 0, 0, 0, 2)
	b = binary.BigEndian.AppendUint64(b, 0x10)
	return append(b, 0x7e, 0, 0, 0, 2, 0)
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}
