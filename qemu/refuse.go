// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Refusal says why a VM cannot be saved: in one way, or at all.
type Refusal struct {
	Reason string
	// Hopeless: no engine can save this VM as it is.
	Hopeless bool
}

func (r *Refusal) Error() string { return r.Reason }

func refuse(format string, args ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, args...)}
}

func hopeless(format string, args ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, args...), Hopeless: true}
}

// migrationInfo is what we look at of query-migrate.
type migrationInfo struct {
	Status  string   `json:"status"`
	Error   string   `json:"error-desc"`
	Blocked []string `json:"blocked-reasons"`
}

// Migratable refuses (*Refusal, Hopeless) what QEMU itself would not migrate now.
func (vm *VM) Migratable(ctx context.Context) error {
	var m migrationInfo
	if err := vm.Monitor.Execute(ctx, "query-migrate", nil, &m); err != nil {
		return err
	}
	if len(m.Blocked) > 0 {
		return hopeless("this VM cannot be saved: %s (remove the device or the setting that QEMU names)", strings.Join(m.Blocked, "; "))
	}
	switch m.Status {
	case "setup", "active", "device", "cancelling", "pre-switchover", "wait-unplug", "postcopy-active", "postcopy-paused", "colo":
		return hopeless("a migration of this VM is under way (%s): wait for it or cancel it", m.Status)
	}
	status, err := vm.Status(ctx)
	if err != nil {
		return err
	}
	switch status {
	case "inmigrate", "restore-vm":
		return hopeless("this VM is being restored or waits for an incoming migration: save it when it runs")
	case "save-vm", "finish-migrate", "colo":
		return hopeless("this VM is being saved or migrated by somebody else (%s)", status)
	}
	return nil
}

// NativeSupported refuses (*Refusal) what the native engine would not save right although QEMU can.
func (vm *VM) NativeSupported(ctx context.Context) error {
	var target struct{ Arch string }
	if err := vm.Monitor.Execute(ctx, "query-target", nil, &target); err != nil {
		return err
	}
	if target.Arch != "x86_64" {
		return refuse("the native engine knows x86_64 guests, this one is %s", target.Arch)
	}
	if len(vm.Blocks) == 0 {
		return refuse("this VM has no memory to save")
	}
	if status, err := vm.Status(ctx); err != nil || status == "suspended" {
		// A suspended guest's wake-up state is kept outside the device sections (QEMU global_state_store).
		return firstError(err, refuse("the native engine does not save a guest that sleeps (S3)"))
	}
	return vm.refuseDevices(ctx)
}

// unsuitable are devices whose memory or state is not all in RAM blocks and FULL sections:
// virtio-mem sends an early section that the loader must see before the RAM, VFIO has state of
// its own that it streams.
var unsuitable = []string{"virtio-mem", "vfio-"}

func (vm *VM) refuseDevices(ctx context.Context) error {
	for _, path := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		var devices []struct{ Name, Type string }
		if err := vm.Monitor.Execute(ctx, "qom-list", map[string]string{"path": path}, &devices); err != nil {
			return err
		}
		for _, d := range devices {
			kind := strings.TrimSuffix(strings.TrimPrefix(d.Type, "child<"), ">")
			if slices.ContainsFunc(unsuitable, func(u string) bool { return strings.HasPrefix(kind, u) }) {
				return refuse("the native engine cannot save the device %s (%s)", d.Name, kind)
			}
		}
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
