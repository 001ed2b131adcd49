// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"errors"
	"fmt"
	"slices"
)

// A VM that has loaded a stream goes from the state inmigrate to the one that globalstate names, and QEMU aborts where its table
// (system/runstate.c, runstate_transitions_def) has no such way: to debug, save-vm and restore-vm. In finish-migrate and inmigrate
// it stays for ever. And a VM that is let go on while its guest sleeps goes to suspended, where again QEMU aborts if it comes from a
// state that has no way there. Each line of this table was tried on QEMU 10.0.2.
var (
	loadableStates = []string{
		"running", "paused", "suspended", "prelaunch", "shutdown", "internal-error", "io-error", "guest-panicked", "watchdog",
		"postmigrate", "colo",
	}
	loadableAsleep = []string{"running", "paused", "suspended", "prelaunch", "shutdown", "internal-error"}
)

// ErrRunState: no QEMU can load the state that a stream says its VM was in, or go on from there.
var ErrRunState = errors.New("no QEMU goes on from the state that the VM was in")

// Loadable reports whether a QEMU that loads this run state can go on from there; asleep: see WasSuspended.
func Loadable(state string, asleep bool) bool {
	if asleep {
		return slices.Contains(loadableAsleep, state)
	}
	return slices.Contains(loadableStates, state)
}

// CheckRunState is ErrRunState for sections whose run state is not Loadable. Sections of which it cannot be told are right: old
// machine types store none, and their VMs run.
func CheckRunState(sections []byte) error {
	state, err := RunState(sections)
	asleep, _ := WasSuspended(sections)
	switch {
	case err != nil || Loadable(state, asleep):
		return nil
	case asleep:
		return fmt.Errorf("%w: %s, with a guest that sleeps (S3)", ErrRunState, state)
	}
	return fmt.Errorf("%w: %s", ErrRunState, state)
}

// StoreRunState has sections say that the VM was in state, or paused where no QEMU could load that.
func StoreRunState(sections []byte, state string) error {
	asleep, err := WasSuspended(sections)
	if err != nil {
		return err
	}
	// In postmigrate is a VM that was paused and that QEMU has saved itself since, which means something in that process only.
	if state == "postmigrate" || !Loadable(state, asleep || state == "suspended") {
		state = "paused"
	}
	return SetRunState(sections, state)
}
