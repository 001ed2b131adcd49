// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/inspect"
	"github.com/ramjet-vm/ramjet/test/vm"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// analyzer is QEMU's scripts/analyze-migration.py, which is neither ours nor in a package of Debian's: RAMJET_ANALYZE_MIGRATION
// says where it is.
func analyzer(t *testing.T) string {
	t.Helper()
	path := os.Getenv("RAMJET_ANALYZE_MIGRATION")
	if path == "" {
		t.Skip("RAMJET_ANALYZE_MIGRATION does not name scripts/analyze-migration.py of QEMU's source")
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skipf("analyze-migration.py needs Python: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDeviceState compares what inspect says of the device state with what QEMU's own script says, for machines with many
// kinds of devices: each section, field and value, in order.
func TestDeviceState(t *testing.T) {
	for name, c := range map[string]vm.Config{
		"q35": {Machine: "q35", Memory: "256M", CPUs: 3, Disk: disk(t), Net: true, Balloon: true, ExtraArgs: append([]string{
			"-device", "e1000e", "-device", "pcie-root-port,id=rp0", "-device", "virtio-scsi-pci,bus=rp0,id=scsi0",
			"-drive", "if=none,id=d1,driver=null-co,size=64M", "-device", "scsi-hd,bus=scsi0.0,drive=d1",
			"-drive", "if=none,id=d2,driver=null-co,size=64M", "-device", "ide-hd,drive=d2,bus=ide.0",
			"-device", "vmgenid,guid=auto"}, everything...)},
		"pc": {Memory: "256M", CPUs: 2, Disk: disk(t), Net: true, ExtraArgs: []string{
			"-device", "cirrus-vga", "-device", "piix3-usb-uhci,id=uhci", "-device", "usb-kbd,bus=uhci.0",
			"-drive", "if=none,id=d1,driver=null-co,size=64M", "-device", "usb-ehci,id=ehci", "-device", "usb-storage,bus=ehci.0,drive=d1",
			"-device", "e1000", "-device", "rtl8139", "-device", "lsi", "-device", "intel-hda", "-device", "hda-duplex,audiodev=a0",
			"-audiodev", "none,id=a0", "-device", "virtio-gpu-pci"}},
	} {
		t.Run(name, func(t *testing.T) {
			script := analyzer(t)
			v := boot(t, c)
			sealed, _ := saveOf(t, v, "--engine=qemu")
			native, _ := saveOf(t, v)
			// QEMU saves a VM that it has saved only after that has run.
			do(t, errors.Join(v.Cont(), v.Stop()))
			plain := filepath.Join(directory(t), "plain")
			saveByQEMU(t, v, plain)
			do(t, v.Kill())
			sections := inspectState(t, native)
			for _, image := range []string{sealed, plain} {
				r := inspectState(t, image)
				compareStates(t, ours(r), theirs(t, script, withoutMemory(t, image)))
				compareSections(t, sections.Devices, r.Devices)
			}
		})
	}
}

func inspectState(t *testing.T, image string) inspect.Result {
	t.Helper()
	return must[inspect.Result](t, "inspect", "--device-state", image)
}

// compareSections: an image of Ramjet's own, which has no description, has the same sections as QEMU's.
func compareSections(t *testing.T, a, b []inspect.Device) {
	t.Helper()
	if len(a) != len(b) {
		t.Fatalf("%d sections, QEMU's image has %d", len(a), len(b))
	}
	for i := range a {
		if a[i].Name != b[i].Name || a[i].Instance != b[i].Instance || a[i].Version != b[i].Version {
			t.Errorf("section %d is %s %d %d, in QEMU's image %s %d %d", i, a[i].Name, a[i].Instance, a[i].Version, b[i].Name, b[i].Instance, b[i].Version)
		}
	}
}

// withoutMemory makes a stream of the device state of an image alone, with its description: scripts before QEMU 11 cannot read mapped-ram
// files, and none reads one with something behind the stream.
func withoutMemory(t *testing.T, image string) string {
	t.Helper()
	m := open(t, image)
	sections, err := m.DeviceSections()
	do(t, err)
	description, err := m.Description()
	do(t, err)
	stream := filepath.Join(directory(t), "stream")
	do(t, os.WriteFile(stream, append(vmstate.AppendHeader(nil, m.Config), vmstate.AppendEnd(sections, description)...), 0o600))
	return stream
}

// leaf is a value at the bottom of the device state.
type leaf struct{ path, value string }

// ours are the leaves as Ramjet says them, the elements of arrays one by one.
func ours(r inspect.Result) []leaf {
	var all []leaf
	for _, d := range r.Devices {
		if len(d.Fields) == 0 {
			all = append(all, leaf{d.Name, ""})
		}
		for _, f := range d.Fields {
			path := d.Name + "." + strings.NewReplacer("(", "", ")", "").Replace(f.Path)
			values := strings.Split(f.Value, ", ")
			if len(values) == 1 {
				all = append(all, leaf{path, f.Value})
				continue
			}
			for i, v := range values {
				all = append(all, leaf{fmt.Sprintf("%s[%d]", path, i), v})
			}
		}
	}
	return all
}

// theirs are the leaves of what the script prints.
func theirs(t *testing.T, script, stream string) []leaf {
	t.Helper()
	var stderr bytes.Buffer
	c := exec.Command("python3", script, "-f", stream)
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%.2000s", script, err, stderr.String())
	}
	d := json.NewDecoder(bytes.NewReader(out))
	var all []leaf
	if err := flatten(d, "", func(l leaf) { all = append(all, l) }); err != nil {
		t.Fatal(err)
	}
	return all
}

// flatten yields the leaves of the next value of d, an object's in their order.
func flatten(d *json.Decoder, path string, yield func(leaf)) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	bracket, ok := token.(json.Delim)
	if !ok {
		yield(leaf{path, fmt.Sprint(token)})
		return nil
	}
	n := 0
	for ; d.More(); n++ {
		element := fmt.Sprintf("%s[%d]", path, n)
		if bracket == '{' {
			key, err := d.Token()
			if err != nil {
				return err
			}
			if element = path + "." + key.(string); path == "" {
				element, _, _ = strings.Cut(key.(string), " (") // section's name and number
			}
		}
		report := yield
		if path == "" && element == "ram" {
			report = func(leaf) {}
		}
		if err := flatten(d, element, report); err != nil {
			return err
		}
	}
	if n == 0 {
		yield(leaf{path, ""})
	}
	if _, err := d.Token(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// compareStates holds the leaves a, whose long arrays are cut, to b.
func compareStates(t *testing.T, a, b []leaf) {
	t.Helper()
	wrong, compared := 0, len(a)
	for len(a) > 0 && len(b) > 0 && wrong < 20 {
		if array, ok := strings.CutSuffix(b[0].path, "]"); ok && a[0].value == "..." && a[0].path == b[0].path {
			array = array[:strings.LastIndexByte(array, '[')+1]
			for len(b) > 0 && strings.HasPrefix(b[0].path, array) {
				b = b[1:]
			}
			a = a[1:]
			continue
		}
		value, cut := strings.CutSuffix(a[0].value, " ...")
		if a[0].path != b[0].path || a[0].value != b[0].value && !(cut && strings.HasPrefix(b[0].value, value)) {
			t.Errorf("%s = %.200s, QEMU's script says %s = %.200s", a[0].path, a[0].value, b[0].path, b[0].value)
			wrong++
		}
		a, b = a[1:], b[1:]
	}
	if len(a) != len(b) {
		t.Errorf("%d values are left, QEMU's script has %d", len(a), len(b))
	}
	if t.Logf("%d values compared", compared); compared < 1000 {
		t.Errorf("only %d values", compared)
	}
}
