// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// byQEMU is a save by QEMU's own migration to a file: mapped-ram, multifd and, where the file takes it, direct-io, over
// two descriptors in a set. What we check beforehand is what would crash it (a set that
// does not match what it opens).
func (s *save) byQEMU(ctx context.Context) (id seal.ID, err error) {
	set, err := s.vm.FreeSet(ctx)
	if err == nil {
		err = s.pause.Sets(set)
	}
	if err == nil {
		err = s.passTarget(ctx, set)
	}
	if err != nil {
		return id, err
	}
	s.findPlugged(ctx)
	s.confineByQEMU()
	remove := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), qemu.CleanupTimeout)
		defer cancel()
		return s.vm.QMP.RemoveFDSet(ctx, set)
	}
	err = s.migrate(ctx, set)
	if err := errors.Join(err, remove(), s.pause.Sets()); err != nil {
		return id, err
	}
	return s.sealFile(ctx)
}

// passTarget gives QEMU the unfinished file: one descriptor for headers, bitmaps and devices, one with O_DIRECT for pages.
func (s *save) passTarget(ctx context.Context, set int64) error {
	flags := []int{os.O_WRONLY}
	if s.io.Direct {
		flags = append(flags, os.O_WRONLY|unix.O_DIRECT)
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, fl := range flags {
		f, err := s.target.Open(fl)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	return s.vm.PassFilesIn(ctx, set, "ramjet image", files...)
}

func (s *save) migrate(ctx context.Context, set int64) (err error) {
	how := qemu.Migration{Channels: s.channels(), Direct: s.io.Direct, MaxBandwidth: s.MaxBandwidth}
	if s.Live {
		// Only what has no channels can be cancelled, and one that goes on while the guest does need not end.
		s.withoutChannels(&how)
		how.Switchover = s.slept.Check
	}
	if err := s.roomForQEMU(&how); err != nil {
		return err
	}
	change, undo, err := s.vm.MigrationSettings(ctx, how)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), qemu.CleanupTimeout)
		defer cancel()
		if over := s.vm.MigrationOver(ctx); over != nil {
			err = errors.Join(err, over)
			s.pause.Forsake() // it takes no settings now; the guardian waits longer
			return
		}
		err = errors.Join(err, s.vm.Execute(ctx, undo), s.pause.Migrates(nil, nil))
	}()
	if err := s.pause.Migrates(how.Hurry(), undo); err != nil {
		return err
	}
	if err := s.vm.Execute(ctx, change); err != nil {
		return fmt.Errorf("QEMU does not take the settings for saving to a file: %w", err)
	}
	hold := s.pause.Hold
	if s.Live {
		hold = s.pause.HoldByQEMU
	}
	ctx, err = hold(ctx)
	if err != nil {
		return err
	}
	if err := s.slept.Check(); err != nil {
		return err
	}
	s.Progress.SetPhase("QEMU saves memory")
	if err := s.vm.Migrate(ctx, how, fmt.Sprintf("file:/dev/fdset/%d", set), s.observe); err != nil {
		return err
	}
	s.result.SaveSeconds = time.Since(s.Began).Seconds()
	s.lookAtDisks()
	if err := s.switched(); err != nil {
		return err
	}
	if err := s.pause.Check(ctx); err != nil || !s.resumes() {
		return err
	}
	return s.pause.End(ThenResume)
}

// besidesPages is more than what headers, bitmaps and devices take, in bytes.
const besidesPages = 64 << 20

// roomForQEMU sees to it that QEMU survives the save. Its multifd channels can be the end of it (seen on 10.0.2: faults now and then
// when a write fails, and once in some eighty times when the migration is cancelled, as it is when we
// are interrupted or killed); what writes alone fails and ends cleanly. So QEMU gets channels, and direct I/O, which it has only
// with them, where the user asks for that, and where all of the memory fits. A file beyond RLIMIT_FSIZE is a signal that ends it.
func (s *save) roomForQEMU(how *qemu.Migration) error {
	need := int64(besidesPages)
	for _, b := range s.vm.Blocks {
		need += b.Used
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(s.vm.PID, unix.RLIMIT_FSIZE, nil, &limit); err == nil && limit.Cur < uint64(need) {
		return fmt.Errorf("QEMU, process %d, may not write a file of %d bytes, its limit is %d: raise it with prlimit --fsize", s.vm.PID, need, limit.Cur)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.target.File.Fd()), &fs); err != nil {
		return fmt.Errorf("cannot tell how much room is in %s: %w", s.Image, err)
	}
	free, asked := int64(fs.Bavail)*fs.Bsize, s.Channels > 0 || s.Direct == directio.On
	if free < need || !asked {
		s.log("QEMU writes without channels and direct I/O, slowly: %d bytes are free and up to %d needed; --channels or --direct-io=on given: %v", free, need, asked)
		s.withoutChannels(how)
	}
	return nil
}

// withoutChannels leaves all to QEMU's one thread; it writes through the page cache then.
func (s *save) withoutChannels(how *qemu.Migration) {
	how.Channels, how.Direct = 0, false
	s.result.Channels, s.result.IO, s.result.IOWhy = 1, "buffered", "QEMU has direct I/O only with channels, which it gets on demand, and where all of memory has room"
}

// switched tells the pause in which state QEMU found the guest when it stopped it itself: QEMU has written that into the image.
func (s *save) switched() error {
	if s.pause.State() != qemu.Switching {
		return nil
	}
	st, err := s.target.File.Stat()
	if err != nil {
		return err
	}
	image, err := mappedram.Open(s.target.File, st.Size())
	if err != nil {
		return fmt.Errorf("what QEMU wrote is no good: %w", err)
	}
	sections, err := image.DeviceSections()
	if err != nil {
		return err
	}
	found, err := vmstate.RunState(sections)
	if errors.Is(err, vmstate.ErrNoGlobalState) {
		found, err = "running", nil // a machine type that does not store it
	}
	if err == nil {
		s.pause.Switched(found)
	}
	return err
}

// observe takes QEMU's own figures over. A live migration that does not get ahead of the guest is brought to its end
// by a stop.
func (s *save) observe(ctx context.Context, r qemu.MigratedRAM) error {
	if s.Live && r.Rounds > maxPasses && !s.result.GaveUp && s.pause.State() == qemu.Switching {
		s.result.GaveUp = true
		s.log("after %d rounds QEMU has %d bytes left to copy, the guest dirties them as fast: the rest is copied in the pause", r.Rounds, r.Remaining)
		if err := s.pause.StopNow(ctx); err != nil {
			return err
		}
	}
	if s.Progress != nil {
		s.Progress.Total.Store(r.Total)
		s.Progress.Done.Store(r.Total - r.Remaining)
		s.Progress.Bytes.Store(r.Transferred)
	}
	return nil
}
