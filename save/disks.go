// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/seal"
)

// watchedDisk is a disk that the guest can write to. Its file is held open without any right to it, so that it can be looked at in the
// pause, when paths are out of reach.
type watchedDisk struct {
	seal.Disk
	file *os.File // nil: the disk is no regular file that can be looked at
}

// watchDisks finds the disks that the guest writes to. What cannot be found out is not recorded.
func (s *save) watchDisks(ctx context.Context) error {
	dir := s.vm.CommandLine.Dir
	if s.Then == ThenQuit {
		if lost := cmdline.ParseArgs(s.vm.CommandLine.Args).ForgetfulDisks(dir); len(lost) > 0 {
			return fmt.Errorf("what the guest wrote to %s is lost when its QEMU ends (-snapshot or snapshot=on), and the memory would not fit to the disk: commit it first, or leave --then=quit out", strings.Join(lost, ", "))
		}
	}
	disks, err := qemu.ActiveDisks(ctx, s.vm.QMP, dir)
	if err != nil {
		s.log("not recorded what disks the VM has: %v", err)
		return nil
	}
	for _, d := range disks {
		if !d.Writable || len(s.disks) == seal.MaxBlocks {
			continue
		}
		w := watchedDisk{Disk: seal.Disk{Device: d.Device, Size: d.Size}}
		if d.File != "" && !s.NoCommandLine {
			w.File = cmdline.ParseArgs(s.vm.CommandLine.Args).ExactPath(d.File, dir)
			w.file = watchFile(s.vm.FileOf(w.File))
		}
		s.disks = append(s.disks, w)
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
func (s *save) lookAtDisks() {
	for i := range s.disks {
		d := &s.disks[i]
		if d.file == nil {
			continue
		}
		if st, err := d.file.Stat(); err == nil {
			t := st.ModTime().UTC()
			d.Written = &t
		}
	}
}

func (s *save) closeDisks() {
	for _, d := range s.disks {
		d.file.Close() // nil, too
	}
}

// recordDisks puts into the metadata what disks the VM has, and what of it is not as its command line says.
func (s *save) recordDisks(m *seal.Metadata) {
	for _, d := range s.disks {
		m.Disks = append(m.Disks, d.Disk)
	}
	ctx, cancel := context.WithTimeout(context.Background(), qemu.CleanupTimeout)
	defer cancel()
	differs, err := s.vm.Differences(ctx)
	if err != nil {
		s.log("not compared whether the VM is as its command line says: %v", err)
	}
	for _, d := range differs {
		s.log("the VM is not as its command line says: %s", d)
	}
	s.result.Differs = append(s.result.Differs, differs...)
	if !s.NoCommandLine {
		m.Differs = differs
	}
}
