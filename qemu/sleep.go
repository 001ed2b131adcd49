// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"github.com/ramjet-vm/ramjet/qmp"
)

// SleepWatch notices a guest that goes to sleep (S3).
type SleepWatch struct {
	events <-chan qmp.Event
	cancel func()
	slept  bool
}

// WatchSleep begins to watch. A guest that sleeps already is not noticed.
func (vm *VM) WatchSleep() *SleepWatch {
	w := &SleepWatch{}
	w.events, w.cancel = vm.QMP.Subscribe("SUSPEND")
	return w
}

// Check refuses (*Refusal) a guest that has gone to sleep since the watch began, and before the last command was answered, even
// if it is awake again. For one goroutine at a time.
func (w *SleepWatch) Check() error {
	select {
	case _, ok := <-w.events:
		w.slept = w.slept || ok
	default:
	}
	if w.slept {
		return unsavable("the guest went to sleep (S3) during the save, and QEMU's own engine would end such a VM: wake it and save again, or use --engine=ramjet")
	}
	return nil
}

// Close ends the watch; of nil too.
func (w *SleepWatch) Close() {
	if w != nil {
		w.cancel()
	}
}
