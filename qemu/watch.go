// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"

	"github.com/ramjet-vm/ramjet/qmp"
)

// SpaceWatch notices a VM that stops because its disk has no room (BLOCK_IO_ERROR with nospace, run state io-error): a
// save into the same file system may be the cause.
type SpaceWatch struct {
	vm     *VM
	events <-chan qmp.Event
	cancel func()
}

// WatchSpace begins to watch.
func (vm *VM) WatchSpace() *SpaceWatch {
	w := &SpaceWatch{vm: vm}
	w.events, w.cancel = vm.QMP.Subscribe("BLOCK_IO_ERROR")
	return w
}

// Resume ends the watch, and lets a VM go on that has stopped for lack of room since it began. QEMU then tries the
// write again; if there is still no room the VM stops again. It reports whether it did so.
func (w *SpaceWatch) Resume(ctx context.Context) (bool, error) {
	defer w.cancel()
	// Events that QEMU sent before the answer have been received when the answer is here.
	status, err := w.vm.Status(ctx)
	if err != nil || status != "io-error" || !w.noSpace() {
		return false, err
	}
	return true, w.vm.Cont(ctx)
}

// noSpace looks through the events so far.
func (w *SpaceWatch) noSpace() bool {
	for {
		select {
		case e, ok := <-w.events:
			var data struct {
				Action  string
				NoSpace bool
			}
			if ok && json.Unmarshal(e.Data, &data) == nil && data.Action == "stop" && data.NoSpace {
				return true
			}
			if !ok {
				return false
			}
		default:
			return false
		}
	}
}

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

// Check refuses (*Refusal) a guest that has gone to sleep since the watch began, and before the last command was
// answered, even if it is awake again. For one goroutine at a time.
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
