// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// compareDisks looks whether the disks of a VM that waits are those that it was saved with: another size is refused, and that one was
// written later is said.
func (r *restore) compareDisks(ctx context.Context, in *qemu.Incoming) error {
	if r.image.Seal == nil || len(r.image.Seal.Disks) == 0 {
		return nil
	}
	now, err := qemu.ActiveDisks(ctx, in.QMP, r.launch.Dir)
	if err != nil {
		return err
	}
	for _, was := range r.image.Seal.Disks {
		i := slices.IndexFunc(now, func(d cmdline.ActiveDisk) bool { return d.Device == was.Device })
		if i < 0 {
			continue // QEMU itself misses the device, or the disk has another name
		}
		is := now[i]
		if is.Size != was.Size && is.Size > 0 {
			return fmt.Errorf("the disk %s (%s) has %d bytes, and had %d when the VM was saved: it is another one, or was resized since", was.Device, is.File, is.Size, was.Size)
		}
		if was.Written == nil || !slices.ContainsFunc(is.Chain, func(f string) bool { return qemu.SameFile(f, was.File) }) {
			continue // a copy has a time of its own
		}
		st, err := os.Stat(in.FileOf(was.File))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			return err
		}
		if st.ModTime().After(*was.Written) && r.Warn != nil {
			r.Warn(fmt.Sprintf("the disk %s was written to after the save (at %s, the VM was saved at %s): what the guest knows of it may not be so any more",
				was.File, st.ModTime().UTC().Format(time.DateTime), was.Written.Format(time.DateTime)))
		}
	}
	return nil
}
