// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/seal"
)

// This file finds out what the seal says of the VM besides its memory. What cannot be found out is not recorded, and the save goes on.

// metadata is what the seal says of where the image came from. differs is what of the VM is not as its command line says, also where
// the seal does not say it.
func (j *job) metadata() (m *seal.Metadata, differs []string) {
	state := j.pause.ImageState()
	m = &seal.Metadata{
		Created:       time.Now().UTC(),
		RamjetVersion: image.VersionString(),
		QEMUVersion:   j.vm.Version(),
		MachineType:   j.vm.MachineType,
		WasRunning:    state == "running" || state == "suspended", // a guest that sleeps (S3) goes on by itself too
	}
	for _, d := range j.disks {
		m.Disks = append(m.Disks, d.Disk)
	}
	if j.o.NoCommandLine {
		return m, j.differences()
	}
	c := j.vm.CommandLine
	m.CommandLine, m.Cwd, m.Executable, m.CommandLineUser = cmdline.WithoutSecrets(c.Args), c.Dir, c.Executable, c.User
	if unknown := c.Unknown(); unknown != "" {
		j.log("to restore it, its command line will be needed: %s", unknown)
	}
	for _, b := range cmdline.Blanked(m.CommandLine) {
		j.log("recorded without its secret: %s", b)
	}
	m.Differs = j.differences()
	return m, m.Differs
}

// differences asks what of the VM is not as its command line says.
func (j *job) differences() []string {
	ctx, cancel := cleanupContext()
	defer cancel()
	differs, err := j.vm.Differences(ctx)
	if err != nil {
		j.log("not compared whether the VM is as its command line says: %v", err)
	}
	for _, d := range differs {
		j.log("the VM is not as its command line says: %s", d)
	}
	return differs
}

// pluggedMemory asks where plugged memory is; nil if there is none.
func pluggedMemory(ctx context.Context, vm *qemu.VM, log func(string, ...any)) (text json.RawMessage) {
	plugged, err := vm.PluggedMemory(ctx)
	if err == nil && len(plugged) > 0 {
		text, err = json.Marshal(plugged)
	}
	if err != nil {
		log("not recorded where plugged memory is: %v", err)
	}
	return text
}

// hotPages returns what a VM that was restored instantly has touched since: the pages that its process has. Of other VMs
// the process has all that they ever touched, which says nothing.
func hotPages(memory []guestmem.Memory, blocks []mappedram.Block) ([]seal.Hot, error) {
	var all []seal.Hot
	var size int
	for i, m := range memory {
		touched, ok := m.(guestmem.Changed)
		if !ok {
			continue
		}
		units := make(image.HotSet, (m.Size()/image.HotUnit+8)/8)
		if size += len(units); size > image.MaxHot {
			return nil, nil
		}
		for r, err := range touched.Touched(guestmem.Range{End: m.Size()}) {
			if err != nil {
				return nil, err
			}
			for at := r.Start; at < r.End; at = (at/image.HotUnit + 1) * image.HotUnit {
				units[at/image.HotUnit/8] |= 1 << (at / image.HotUnit % 8)
			}
		}
		all = append(all, seal.Hot{Block: blocks[i].Name, Units: units})
	}
	return all, nil
}

// watchedDisk is a disk that the guest can write to. Its file is held open without any right to it, so that it can be looked at in the
// pause, when paths are out of reach.
type watchedDisk struct {
	seal.Disk
	file *os.File // nil: the disk is no regular file that can be looked at
}

// watchDisks finds the disks that the guest writes to. What cannot be found out is not recorded.
func (j *job) watchDisks(ctx context.Context) error {
	dir := j.vm.CommandLine.Dir
	if j.o.Then == ThenQuit {
		if lost := cmdline.ParseArgs(j.vm.CommandLine.Args).ForgetfulDisks(dir); len(lost) > 0 {
			return fmt.Errorf("what the guest wrote to %s is lost when its QEMU ends (-snapshot or snapshot=on), and the memory would not fit to the disk: commit it first, or leave --then=quit out", strings.Join(lost, ", "))
		}
	}
	disks, err := qemu.ActiveDisks(ctx, j.vm.QMP, dir)
	if err != nil {
		j.log("not recorded what disks the VM has: %v", err)
		return nil
	}
	for _, d := range disks {
		if !d.Writable || len(j.disks) == seal.MaxBlocks {
			continue
		}
		w := watchedDisk{Disk: seal.Disk{Device: d.Device, Size: d.Size}}
		if d.File != "" && !j.o.NoCommandLine {
			w.File = cmdline.ParseArgs(j.vm.CommandLine.Args).ExactPath(d.File, dir)
			w.file = watchFile(j.vm.FileOf(w.File))
		}
		j.disks = append(j.disks, w)
	}
	return nil
}

// watchFile opens a regular file for looking at it; nil if that cannot be.
func watchFile(path string) *os.File {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), path)
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil
	}
	return f
}

// lookAtDisks notes when the disks were written last. It is called in the pause, after QEMU has written to them what it held back.
func (j *job) lookAtDisks() {
	for i := range j.disks {
		d := &j.disks[i]
		if d.file == nil {
			continue
		}
		if st, err := d.file.Stat(); err == nil {
			t := st.ModTime().UTC()
			d.Written = &t
		}
	}
}
