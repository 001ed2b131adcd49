// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// Refusal is the error that says why a VM cannot be saved by one engine, or by any.
type Refusal struct {
	Reason string
	// Unsavable means that no engine can save this VM as it is.
	Unsavable bool
}

func (r *Refusal) Error() string { return r.Reason }

func refuse(format string, args ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, args...)}
}

func unsavable(format string, args ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, args...), Unsavable: true}
}

// migrationInfo is the part of query-migrate's answer that is used here.
type migrationInfo struct {
	Status  string   `json:"status"`
	Error   string   `json:"error-desc"`
	Blocked []string `json:"blocked-reasons"`
}

// Migratable refuses (*Refusal, Unsavable) a VM that QEMU itself would not migrate now.
func (vm *VM) Migratable(ctx context.Context) error {
	var m migrationInfo
	if err := vm.QMP.Execute(ctx, "query-migrate", nil, &m); err != nil {
		return err
	}
	if len(m.Blocked) > 0 {
		return unsavable("this VM cannot be saved: %s (remove the device or the setting that QEMU names)", strings.Join(m.Blocked, "; "))
	}
	switch m.Status {
	case "setup", "active", "device", "cancelling", "failing", "pre-switchover", "wait-unplug", "postcopy-active", "postcopy-paused", "colo":
		return unsavable("a migration of this VM is under way (%s): wait for it or cancel it", m.Status)
	}
	status, err := vm.Status(ctx)
	if err != nil {
		return err
	}
	switch status {
	case "inmigrate", "restore-vm":
		return unsavable("this VM is being restored or waits for an incoming migration: save it when it runs")
	case "save-vm", "finish-migrate", "colo":
		return unsavable("this VM is being saved or migrated by somebody else (%s)", status)
	}
	return nil
}

// NativeSupported refuses (*Refusal) a VM that the native engine would not save right although QEMU can.
func (vm *VM) NativeSupported(ctx context.Context) error {
	var target struct{ Arch string }
	if err := vm.QMP.Execute(ctx, "query-target", nil, &target); err != nil {
		return err
	}
	if target.Arch != "x86_64" {
		return refuse("the native engine knows x86_64 guests, this one is %s", target.Arch)
	}
	if len(vm.Blocks) == 0 {
		return refuse("this VM has no memory to save")
	}
	if err := vm.refuseParts(ctx); err != nil {
		return err
	}
	// A virtio-mem device has a section before the memory in the stream, and xen-save-devices-state does not write that
	// section.
	return vm.refuseDevices(ctx, "virtio-mem", refuse, "the native engine cannot save the device %s (%s)")
}

// QEMUSupported refuses (*Refusal, Unsavable) a VM that QEMU's own migration to a file would not save right, or would
// not leave as it was. QEMU ends such a migration in the state postmigrate, from which it can go back to running and to
// no other state. ends is true if the VM is to end with the save.
func (vm *VM) QEMUSupported(ctx context.Context, ends bool) error {
	if err := vm.NeedsVersion(9, 1, "to write an image itself"); err != nil {
		return err
	}
	if err := vm.refuseParts(ctx); err != nil {
		return err
	}
	status, err := vm.Status(ctx)
	switch {
	case err != nil || status == "running":
		return err
	case status == "suspended":
		return errAsleep
	case status == "postmigrate":
		return unsavable("QEMU has saved or migrated this VM already and does not do so again before it has run (cont)")
	case !ends:
		return unsavable("this VM is %s, and QEMU's own engine would leave it in the state postmigrate (let it run first, or end it with --then=quit)", status)
	}
	if asleep, err := vm.asleep(ctx); err != nil || asleep {
		return cmp.Or[error](err, errAsleep)
	}
	return nil
}

// errAsleep is forced by QEMU: after its own migration it aborts when a sleeping guest is let go on, since
// runstate_transitions_def has no way from postmigrate to suspended.
var errAsleep = unsavable("the guest sleeps (S3), and QEMU's own engine would end such a VM (wake it first)")

// asleep reports whether the guest of a stopped VM sleeps. query-status does not say so: it says paused.
func (vm *VM) asleep(ctx context.Context) (bool, error) {
	f, err := vm.NewStateFile(ctx)
	if err != nil {
		return false, err
	}
	sections, err := vm.DeviceSections(ctx, f, "running")
	if err := errors.Join(err, f.Close(context.WithoutCancel(ctx), vm)); err != nil {
		return false, err
	}
	asleep, err := vmstate.WasSuspended(sections)
	if errors.Is(err, vmstate.ErrNoGlobalState) {
		return false, nil
	}
	return asleep, err
}

// refuseParts refuses a VM of which QEMU saves something in a section of several parts that only QEMU can read. An
// image with such a section could not be sealed, checked or restored here.
func (vm *VM) refuseParts(ctx context.Context) error {
	if strings.HasPrefix(vm.MachineType, "pseries") {
		return unsavable("the state of this machine's page table (spapr/htab) cannot be taken apart here")
	}
	return vm.refuseDevices(ctx, "vfio-", unsavable, "the state of the device %s (%s) cannot be taken apart here: unplug it for the save, or have QEMU migrate the VM itself")
}

// refuseDevices refuses a VM with a device whose type begins with prefix. sentence is a format for the device's name
// and type.
func (vm *VM) refuseDevices(ctx context.Context, prefix string, how func(string, ...any) *Refusal, sentence string) error {
	for _, path := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		var devices []struct{ Name, Type string }
		if err := vm.QMP.Execute(ctx, "qom-list", map[string]string{"path": path}, &devices); err != nil {
			return err
		}
		for _, d := range devices {
			kind := strings.TrimSuffix(strings.TrimPrefix(d.Type, "child<"), ">")
			if strings.HasPrefix(kind, prefix) {
				return how(sentence, d.Name, kind)
			}
		}
	}
	return nil
}
