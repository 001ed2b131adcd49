// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// Status is the VM's run state by QEMU's name: running, paused, ...
func (vm *VM) Status(ctx context.Context) (string, error) {
	var s struct{ Status string }
	err := vm.QMP.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

// Stop stops the guest; QEMU flushes its disks with it (do_vm_stop).
func (vm *VM) Stop(ctx context.Context) error { return vm.QMP.Execute(ctx, "stop", nil, nil) }

// Cont lets the guest go on.
func (vm *VM) Cont(ctx context.Context) error {
	for {
		err := vm.QMP.Execute(ctx, "cont", nil, nil)
		var e *qmp.Error
		if !errors.As(err, &e) || e.Desc != notFinalized || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// notFinalized is QEMU's answer to cont after it has said that a migration is completed and before it has cleaned up
// after the migration (qmp_cont, RUN_STATE_FINISH_MIGRATE).
const notFinalized = "Migration is not finalized yet"

// Quit ends QEMU, which may end before it answers.
func (vm *VM) Quit(ctx context.Context) error {
	if err := vm.QMP.Execute(ctx, "quit", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		return err
	}
	return nil
}

// maxDeviceState is the size in bytes up to which device state is read. A desktop with every device has some hundred
// KiB.
const maxDeviceState = 1 << 30

// StateFile is a file in memory into which QEMU writes device state, through a descriptor set. It is to be made before
// the VM is stopped.
type StateFile struct {
	file   *os.File
	writer *os.File // shares QEMU's open file description
	set    int64
}

// NewStateFile makes a StateFile and passes it to QEMU in a new descriptor set.
func (vm *VM) NewStateFile(ctx context.Context) (*StateFile, error) {
	set, err := vm.FreeSet(ctx)
	if err != nil {
		return nil, err
	}
	return vm.NewStateFileIn(ctx, set)
}

// NewStateFileIn is NewStateFile with a set from FreeSet.
func (vm *VM) NewStateFileIn(ctx context.Context, set int64) (*StateFile, error) {
	fd, err := unix.MemfdCreate("ramjet-device-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory for the device state: %w", err)
	}
	s := &StateFile{file: os.NewFile(uintptr(fd), "device state"), set: set}
	// QEMU matches the access mode exactly (monitor_fdset_dup_fd_add), and opens for writing only.
	if s.writer, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0); err == nil {
		err = vm.PassFilesIn(ctx, set, "ramjet device state", s.writer)
	}
	if err != nil {
		s.writer.Close()
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// Set is the number of the descriptor set in QEMU.
func (s *StateFile) Set() int64 { return s.set }

// PassFiles passes files to QEMU in a new descriptor set and returns its number. The caller has to remove the set.
func (vm *VM) PassFiles(ctx context.Context, purpose string, files ...*os.File) (set int64, err error) {
	if set, err = vm.FreeSet(ctx); err != nil {
		return 0, err
	}
	return set, vm.PassFilesIn(ctx, set, purpose, files...)
}

// PassFilesIn is PassFiles with a set from FreeSet. When it fails the set is removed again.
func (vm *VM) PassFilesIn(ctx context.Context, set int64, purpose string, files ...*os.File) error {
	for _, f := range files {
		if _, err := vm.QMP.AddFD(ctx, set, purpose, f); err != nil {
			err = vm.explainLimit(err) // before the set is removed
			// QEMU executes what was sent before ctx ended.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CleanupTimeout)
			defer cancel()
			_ = vm.QMP.RemoveFDSet(ctx, set)
			return fmt.Errorf("cannot pass a descriptor to QEMU: %w", err)
		}
	}
	return nil
}

// CleanupTimeout is how long QEMU is waited for when all that is left to do is to clean up.
const CleanupTimeout = 5 * time.Second

// FreeSet returns a random number that no descriptor set has. It is above those that a management program which counts
// from 0 will use; /dev/fdset/N takes numbers up to 2^31-1.
func (vm *VM) FreeSet(ctx context.Context) (int64, error) {
	sets, err := vm.QMP.QueryFDSets(ctx)
	if err != nil {
		return 0, err
	}
	for {
		id := 1<<30 + rand.Int64N(1<<30)
		taken := false
		for _, s := range sets {
			taken = taken || s.ID == id
		}
		if !taken {
			return id, nil
		}
	}
}

// DeviceSections has the stopped VM write its device state, and returns the sections (vmstate.DeviceSections). They
// record the run state status, or paused where no QEMU could load that (vmstate.Loadable).
func (vm *VM) DeviceSections(ctx context.Context, s *StateFile, status string) ([]byte, error) {
	// QEMU truncates the file and writes from the descriptor's offset, which is at the end after the first time.
	if _, err := s.writer.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	args := map[string]any{
		"filename": fmt.Sprintf("/dev/fdset/%d", s.set),
		// live:true would hand the disks over to another QEMU (bdrv_inactivate_all).
		"live": false,
	}
	if err := vm.QMP.Execute(ctx, "xen-save-devices-state", args, nil); err != nil {
		return nil, fmt.Errorf("QEMU could not save its device state: %w", vm.explainLimit(err))
	}
	b, err := io.ReadAll(io.NewSectionReader(s.file, 0, maxDeviceState))
	if err != nil {
		return nil, fmt.Errorf("cannot read the device state: %w", err)
	}
	sections, err := vmstate.DeviceSections(b)
	if err != nil {
		return nil, fmt.Errorf("QEMU's device state is not usable: %w", err)
	}
	if status != "running" {
		// The command always writes "running" (global_state_store_running).
		err = vmstate.StoreRunState(sections, status)
	}
	return sections, err
}

// Close removes the descriptor set from QEMU, and the file.
func (s *StateFile) Close(ctx context.Context, vm *VM) error {
	return errors.Join(vm.QMP.RemoveFDSet(ctx, s.set), s.writer.Close(), s.file.Close())
}
