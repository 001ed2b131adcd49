// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qmp"
)

// explain says the one thing that matters where everything fails because there is no QEMU any more, or no connection to it, and
// what can be done about a full disk.
func (j *job) explain(ctx context.Context, err error) error {
	spoilt := j.pause.Spoilt()
	switch {
	case err == nil || j.published || errors.Is(err, image.ErrNotDurable):
		return err
	case errors.Is(spoilt, qemu.ErrFrozen):
		return spoilt
	case j.vm.Gone():
		return fmt.Errorf("QEMU, process %d, has ended during the save: nothing was saved", j.vm.PID)
	case errors.Is(err, qmp.ErrClosed):
		return fmt.Errorf("the VM's monitor was lost during the save, nothing was saved: %w", first(err))
	case j.pause.State() == qemu.Lost:
		return fmt.Errorf("QEMU, process %d, does not answer; it will find the order to let the VM go on when it does. Nothing was saved: %w", j.vm.PID, first(err))
	case spoilt != nil && ctx.Err() == nil:
		return spoilt
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		j.log("%v", err)
		return image.DiskFull(err, j.o.Image)
	}
	return image.Interrupted(ctx, err)
}

// first is the one error that led to the others it was joined with.
func first(err error) error {
	for {
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || !strings.Contains(err.Error(), "\n") {
			return err
		}
		err = joined.Unwrap()[0]
	}
}

func (j *job) log(format string, args ...any) {
	if j.o.Log != nil {
		j.o.Log(fmt.Sprintf(format, args...))
	}
}

// resumeWithSpace lets a VM go on that has stopped for lack of room in its disk's file system since the save began: the unfinished
// file is gone, and the room that was reserved for it given back.
func (j *job) resumeWithSpace() {
	if j.published && !j.resumes() {
		return // saved, and to stay as it is
	}
	ctx, cancel := cleanupContext()
	defer cancel()
	switch resumed, err := j.space.Resume(ctx); {
	case resumed && err != nil:
		j.log("the VM stopped because there was no room for its disk, and does not go on (send it \"cont\"): %v", err)
	case resumed:
		j.log("the VM stopped because there was no room for its disk; it goes on now")
	}
}

// cleanupContext is for what has to be done although the save may have been cancelled.
func cleanupContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), qemu.CleanupTimeout)
}
