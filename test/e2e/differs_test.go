// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// qcow2 makes an image, over another one if base is not empty.
func qcow2(t *testing.T, path, base string) string {
	t.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	if base != "" {
		args = append(args, "-b", base, "-F", "qcow2")
	}
	if out, err := exec.Command("qemu-img", append(args, path, "8M")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// differs saves a machine, and looks for words in what its command line does not say.
func differs(t *testing.T, f firmware, image string, want ...string) {
	t.Helper()
	r := must[save.Result](t, "save", "--force", "--qmp", f.socket, image)
	if len(r.Differs) != len(want) {
		t.Errorf("%q differ, want %q", r.Differs, want)
		return
	}
	for _, w := range want {
		if !slices.ContainsFunc(r.Differs, func(d string) bool { return strings.Contains(d, w) }) {
			t.Errorf("%q differ, want %q", r.Differs, w)
		}
	}
	if len(want) > 0 {
		refused(t, 1, []string{"any more", want[0], "after --"}, "restore", image)
		if o := ramjet(t, "inspect", image); !strings.Contains(o.out, want[0]) {
			t.Errorf("inspect says nothing of %s:\n%s", want[0], o.out)
		}
	}
}

// TestDiffers saves machines that are not as their command line says any more. (Issue 15, point 8.)
func TestDiffers(t *testing.T) {
	vm.Need(t)
	dir := directory(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	image := in("image")
	qcow2(t, in("a.qcow2"), "")
	b := qcow2(t, in("b \xe9,b.qcow2"), "") // not UTF-8, with a comma
	do(t, os.WriteFile(in("c.iso"), make([]byte, 1<<20), 0o600))
	do(t, os.WriteFile(in("d.iso"), make([]byte, 1<<20), 0o600))
	f := startFirmware(t, dir, os.Geteuid(), nil, "-S", "-usb", "-device", "usb-tablet,id=tablet",
		"-drive", "if=none,id=d0,format=qcow2,file=a.qcow2", "-device", "virtio-blk-pci,drive=d0,id=vb0",
		"-blockdev", "driver=qcow2,node-name=n1,file.driver=file,file.filename="+strings.ReplaceAll(b, ",", ",,"), "-device", "virtio-blk-pci,drive=n1",
		"-drive", `if=none,id=d2,file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"`+qcow2(t, in("e"), "")+`"}}`,
		"-drive", "if=none,id=cd,media=cdrom,file="+in("c.iso"), "-device", "ide-cd,drive=cd,id=ide")
	differs(t, f, image)
	// What JSON cannot hold is recorded all the same, and the time of last write with it.
	m := open(t, image).Seal
	if !slices.Contains(m.CommandLine, "driver=qcow2,node-name=n1,file.driver=file,file.filename="+strings.ReplaceAll(b, ",", ",,")) {
		t.Errorf("recorded is %q", m.CommandLine)
	}
	if i := slices.IndexFunc(m.Disks, func(d seal.Disk) bool { return d.File == b }); i < 0 || m.Disks[i].Written == nil || m.Disks[i].Size != 8<<20 {
		t.Errorf("disks are %+v", m.Disks)
	}

	execute(t, f.socket, "device_add", map[string]any{"driver": "virtio-rng-pci", "id": "rng1"}, nil)
	want := []string{"device rng1 (virtio-rng-pci) was plugged in"}
	differs(t, f, image, want...)
	execute(t, f.socket, "device_add", map[string]any{"driver": "virtio-rng-pci"}, nil)
	execute(t, f.socket, "device_del", map[string]any{"id": "tablet"}, nil)
	want = append(want, "device without an id", "device tablet (usb-tablet) of the command line is not there")
	differs(t, f, image, want...)
	execute(t, f.socket, "blockdev-snapshot-sync", map[string]any{"device": "d0", "snapshot-file": in("a.overlay")}, nil)
	execute(t, f.socket, "blockdev-snapshot-sync", map[string]any{"node-name": "n1", "snapshot-file": in("b.overlay"), "snapshot-node-name": "n2"}, nil)
	execute(t, f.socket, "blockdev-change-medium", map[string]any{"id": "ide", "filename": in("d.iso"), "force": true}, nil)
	want = append(want, "the disk d0 is "+in("a.overlay"), in("b.overlay"), "is "+in("d.iso"), in("c.iso")+" of the command line is not in use")
	differs(t, f, image, want...)

	t.Run("commit", func(t *testing.T) {
		overlay := qcow2(t, in("o.qcow2"), qcow2(t, in("base.qcow2"), ""))
		f := startFirmware(t, directory(t), os.Geteuid(), nil, "-S", "-drive", "if=none,id=d0,format=qcow2,file="+overlay, "-device", "virtio-blk-pci,drive=d0")
		differs(t, f, image)
		execute(t, f.socket, "block-commit", map[string]any{"device": "d0", "job-id": "j"}, nil)
		for range 100 {
			var jobs []struct{ Ready bool }
			if execute(t, f.socket, "query-block-jobs", nil, &jobs); len(jobs) == 0 || jobs[0].Ready {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		execute(t, f.socket, "block-job-complete", map[string]any{"device": "j"}, nil)
		for range 100 {
			var jobs []struct{}
			if execute(t, f.socket, "query-block-jobs", nil, &jobs); len(jobs) == 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		differs(t, f, image, "the disk d0 is "+in("base.qcow2"), overlay+" of the command line is not in use")
	})
	t.Run("snapshot", func(t *testing.T) {
		for _, args := range [][]string{{"-drive", "if=none,id=d0,format=qcow2,snapshot=on,file=" + in("e")}, {"-snapshot", "-drive", "if=none,id=d0,format=qcow2,file=" + in("e")}} {
			f := startFirmware(t, directory(t), os.Geteuid(), nil, append(args, "-device", "virtio-blk-pci,drive=d0")...)
			differs(t, f, image, in("e")+" (snapshot=on)")
			refused(t, 1, []string{in("e"), "is lost", "--then=quit"}, "save", "--force", "--then=quit", "--qmp", f.socket, image)
			var s struct{ Status string }
			if execute(t, f.socket, "query-status", nil, &s); s.Status != "running" {
				t.Errorf("the VM is %s", s.Status)
			}
		}
	})
}

// TestOtherDisk restores over a disk that is not as it was. (Issue 15, point 8.)
func TestOtherDisk(t *testing.T) {
	dir := directory(t)
	disk := filepath.Join(dir, "disk.raw")
	do(t, os.WriteFile(disk, make([]byte, 2<<20), 0o600))
	f := startFirmware(t, dir, os.Geteuid(), nil, "-S", "-drive", "if=none,id=d0,format=raw,file="+disk, "-device", "virtio-blk-pci,drive=d0")
	image := filepath.Join(dir, "image")
	if r := must[save.Result](t, "save", "--then=quit", "--qmp", f.socket, image); len(r.Differs) > 0 {
		t.Errorf("%q", r.Differs)
	}
	restored := func(t *testing.T, says string) {
		t.Helper()
		o := ramjet(t, "restore", "--detach", "--json", image)
		var r restore.Result
		if o.status != 0 || json.Unmarshal([]byte(o.out), &r) != nil {
			t.Fatalf("%+v", o)
		}
		kill(r.PID)
		if strings.Contains(o.err, "written to after the save") != (says != "") || !strings.Contains(o.err, says) || strings.Count(o.err, "\n") > 1 {
			t.Errorf("it says %q, want %q", o.err, says)
		}
		gone(t, r.PID)
	}
	restored(t, "")
	w, err := os.OpenFile(disk, os.O_WRONLY, 0)
	do(t, err)
	_, err = w.Write(bytes.Repeat([]byte{7}, 64<<10))
	do(t, err)
	do(t, w.Close())
	restored(t, disk)
	do(t, os.Truncate(disk, 3<<20))
	refused(t, 1, []string{"d0", disk, "3145728", "2097152"}, "restore", image)
}
