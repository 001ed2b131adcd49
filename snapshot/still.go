// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockVM keeps a second ramjet from saving the same VM meanwhile, by whatever monitor of it: the first to be done would
// let the guest go on under the other's hands. The lock is on a file of /proc that only those can open who
// may read the VM's memory, and goes with this process.
func (s *save) lockVM() error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", s.vm.PID))
	if err != nil {
		return nil // what is needed of that file is asked for elsewhere, with a better sentence
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return fmt.Errorf("another ramjet is saving this VM (process %d) just now: wait for it", s.vm.PID)
	}
	s.lock = f
	return nil
}

// standing begins to watch that the guest stands still. The function that it returns is to be called when the
// pages are written: it is an error if anybody let the guest go on meanwhile, because the pages are of several moments then.
func (n *native) standing() (check func(context.Context) error) {
	resumed, cancel := n.vm.Monitor.Subscribe("RESUME")
	return func(ctx context.Context) error {
		defer cancel()
		// What QEMU told before it answers this has been received with the answer.
		status, err := n.vm.Status(ctx)
		if err != nil {
			return err
		}
		select {
		case _, ok := <-resumed:
			if ok {
				status = "running"
			}
		default:
		}
		if status == "running" {
			return errors.New("somebody else let the VM go on while its memory was being written, so it would be of several moments: nothing was saved; save it again")
		}
		return nil
	}
}
