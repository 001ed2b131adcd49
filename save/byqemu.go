// SPDX-License-Identifier: Apache-2.0

package save

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/transfer"
)

// byQEMU is the copier that is QEMU's own migration to a file: mapped-ram, multifd and, where the file takes it, direct-io, over
// two descriptors in a set. What would crash QEMU is checked beforehand (a set that does not match what it opens).
//
// Without Live the guest is stopped before the migration; with it QEMU migrates while the guest runs, and stops it at the end.
type byQEMU struct {
	j        *job
	asleep   *qemu.SleepWatch
	how      qemu.Migration
	set      int64          // the descriptor set, once passed is true
	passed   bool           // QEMU has the image's file
	undo     []qemu.Command // gives QEMU its settings back, once changing is true
	changing bool
	plugged  json.RawMessage // where plugged memory is, as the seal says it
	scratch  *os.File        // for page sums; nil once they are in it
	began    time.Time
	written  time.Time // when QEMU had written all
	gaveUp   bool
}

// newByQEMU returns the copier. The guest may go to sleep from now on, which is noticed.
func newByQEMU(j *job) *byQEMU { return &byQEMU{j: j, asleep: j.vm.WatchSleep()} }

// prepare passes the image's file to QEMU and changes its settings.
func (q *byQEMU) prepare(ctx context.Context) (err error) {
	q.began = time.Now()
	if q.set, err = q.j.vm.FreeSet(ctx); err != nil {
		return err
	}
	if err := q.j.pause.Sets(q.set); err != nil {
		return err
	}
	if err := q.passFile(ctx, q.set); err != nil {
		return err
	}
	q.passed = true
	if q.scratch, err = image.Scratch(filepath.Dir(q.j.o.Image), q.j.o.Calls); err != nil {
		return err
	}
	q.plugged = pluggedMemory(ctx, q.j.vm, q.j.log)
	q.j.confiner.passed()
	q.how = qemu.Migration{Channels: q.j.channels(), Direct: q.j.io.Direct, MaxBandwidth: q.j.o.MaxBandwidth}
	if q.j.o.Live {
		// Only what has no channels can be cancelled, and one that goes on while the guest does need not end.
		q.withoutChannels()
		q.how.Switchover = q.asleep.Check
	}
	if err := q.chooseWriter(); err != nil {
		return err
	}
	return q.settings(ctx)
}

// passFile gives QEMU the unfinished file: one descriptor for headers, bitmaps and devices, one with O_DIRECT for pages.
func (q *byQEMU) passFile(ctx context.Context, set int64) error {
	flags := []int{os.O_WRONLY}
	if q.j.io.Direct {
		flags = append(flags, os.O_WRONLY|unix.O_DIRECT)
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, fl := range flags {
		f, err := q.j.target.Open(fl)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	return q.j.vm.PassFilesIn(ctx, set, "ramjet image", files...)
}

// besidesPages is more than what headers, bitmaps and devices take, in bytes.
const besidesPages = 64 << 20

// chooseWriter sees to it that QEMU survives the save. Its multifd channels can be the end of it (seen on 10.0.2: faults now and then
// when a write fails, and once in some eighty times when the migration is cancelled, as it is when we
// are interrupted or killed); what writes alone fails and ends cleanly. So QEMU gets channels, and direct I/O, which it has only
// with them, where the user asks for that, and where all of the memory fits. A file beyond RLIMIT_FSIZE is a signal that ends it.
func (q *byQEMU) chooseWriter() error {
	need := int64(besidesPages)
	for _, b := range q.j.vm.Blocks {
		need += b.Used
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(q.j.vm.PID, unix.RLIMIT_FSIZE, nil, &limit); err == nil && limit.Cur < uint64(need) {
		return fmt.Errorf("QEMU, process %d, may not write a file of %d bytes, its limit is %d: raise it with prlimit --fsize", q.j.vm.PID, need, limit.Cur)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(q.j.target.File.Fd()), &fs); err != nil {
		return fmt.Errorf("cannot tell how much room is in %s: %w", q.j.o.Image, err)
	}
	free, asked := int64(fs.Bavail)*fs.Bsize, q.j.o.Channels > 0 || q.j.o.Direct == directio.On
	if free < need || !asked {
		q.j.log("QEMU writes without channels and direct I/O, slowly: %d bytes are free and up to %d needed; --channels or --direct-io=on given: %v", free, need, asked)
		q.withoutChannels()
	}
	return nil
}

// withoutChannels leaves all to QEMU's one thread; it writes through the page cache then.
func (q *byQEMU) withoutChannels() { q.how.Channels, q.how.Direct = 0, false }

// settings gives QEMU the settings for saving to a file.
func (q *byQEMU) settings(ctx context.Context) error {
	change, undo, err := q.j.vm.MigrationSettings(ctx, q.how)
	if err != nil {
		return err
	}
	q.undo, q.changing = undo, true
	if err := q.j.pause.Migrates(q.how.Hurry(), undo); err != nil {
		return err
	}
	if err := q.j.vm.Execute(ctx, change); err != nil {
		return fmt.Errorf("QEMU does not take the settings for saving to a file: %w", err)
	}
	return nil
}

func (q *byQEMU) hold(ctx context.Context) (context.Context, error) {
	if q.j.o.Live {
		return q.j.pause.HoldByQEMU(ctx)
	}
	return q.j.pause.Hold(ctx)
}

// copy is the migration.
func (q *byQEMU) copy(ctx context.Context) error {
	if err := q.asleep.Check(); err != nil {
		return err
	}
	q.j.o.Progress.SetPhase("QEMU saves memory")
	if err := q.j.vm.Migrate(ctx, q.how, fmt.Sprintf("file:/dev/fdset/%d", q.set), q.observe); err != nil {
		return err
	}
	q.written = time.Now()
	if q.j.pause.State() != qemu.Switching {
		return nil
	}
	found, err := writtenRunState(q.j.target.File)
	if err == nil {
		q.j.pause.Switched(found)
	}
	return err
}

// observe takes QEMU's own figures over. A live migration that does not get ahead of the guest is brought to its end
// by a stop.
func (q *byQEMU) observe(ctx context.Context, r qemu.MigratedRAM) error {
	if q.j.o.Live && r.Rounds > maxPasses && !q.gaveUp && q.j.pause.State() == qemu.Switching {
		q.gaveUp = true
		q.j.log("after %d rounds QEMU has %d bytes left to copy, the guest dirties them as fast: the rest is copied in the pause", r.Rounds, r.Remaining)
		if err := q.j.pause.StopNow(ctx); err != nil {
			return err
		}
	}
	if p := q.j.o.Progress; p != nil {
		p.Total.Store(r.Total)
		p.Done.Store(r.Total - r.Remaining)
		p.Bytes.Store(r.Transferred)
	}
	return nil
}

// release undoes the settings and takes the image's file back.
func (q *byQEMU) release() (err error) {
	if q.changing {
		err = q.undoSettings()
	}
	if !q.passed {
		return err
	}
	ctx, cancel := cleanupContext()
	defer cancel()
	return errors.Join(err, q.j.vm.QMP.RemoveFDSet(ctx, q.set), q.j.pause.Sets())
}

func (q *byQEMU) undoSettings() error {
	ctx, cancel := cleanupContext()
	defer cancel()
	if err := q.j.vm.MigrationOver(ctx); err != nil {
		q.j.pause.Forsake() // it takes no settings now; the guardian waits longer
		return err
	}
	return errors.Join(q.j.vm.Execute(ctx, q.undo), q.j.pause.Migrates(nil, nil))
}

// complete seals what QEMU wrote. Its pages are read for their sums.
func (q *byQEMU) complete(ctx context.Context, m *seal.Metadata) (_ *copied, err error) {
	q.j.o.Progress.SetPhase("sealing")
	written, err := openStream(q.j.target.File)
	if err != nil {
		return nil, err
	}
	if err := putRunState(q.j.target.File, written, q.j.pause.ImageState()); err != nil {
		return nil, err
	}
	params := transfer.Params{Calls: q.j.o.Calls, Channels: q.j.o.Channels, Direct: q.j.io.Direct}
	stored, sums, err := image.SumImage(ctx, written, q.j.target, params, q.takeScratch, q.j.o.Progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sums.Close()) }()
	if err := lostPages(written, stored, sums); err != nil {
		return nil, err
	}
	m.Format, m.MemoryDevices = "qemu", q.plugged
	if err := image.DescribeStream(m, written, stored); err != nil {
		return nil, err
	}
	c := &copied{written: q.written, gaveUp: q.gaveUp, notRestorable: image.NotRestorable(written.Config)}
	c.times.Memory = q.written.Sub(q.began).Seconds()
	c.io, c.ioWhy, c.channels = q.j.io.String(), q.j.io.Why, q.j.channels()
	if q.how.Channels == 0 {
		c.io, c.ioWhy, c.channels = "buffered", "QEMU has direct I/O only with channels, which it gets on demand, and where all of memory has room", 1
	}
	c.id, err = image.Seal(q.j.target.File, written.StreamEnd, m, stored, sums)
	return c, err
}

// takeScratch gives out the scratch file, once.
func (q *byQEMU) takeScratch() (*os.File, error) {
	f := q.scratch
	q.scratch = nil
	return f, nil
}

func (q *byQEMU) close() error {
	q.asleep.Close()
	q.scratch.Close() // nil too
	return nil
}
