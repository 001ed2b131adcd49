// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestRestoreFaults lets each call of an eager restore fail in each way, or as many as there is time for. There is
// a VM whose memory is that of the saved one, or none.
func TestRestoreFaults(t *testing.T) {
	m := newMachine(t, "memfd")
	p := newPlace(t, m, true)
	r := &restoring{m: m, image: p.image}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { r.each(t, f) })
	}
	p.files(t)
	p.what(t)
	m.unharmed(t)
}

// restoring is a restore that is made again and again.
type restoring struct {
	m     *machine
	image string
}

// once makes one by calls and ends the VM.
func (r *restoring) once(t *testing.T, calls *sys.Calls) error {
	dir := t.TempDir()
	own := filepath.Join(dir, "own")
	v, err := restore.Restore(context.Background(), restore.Options{
		Image: r.image, Mode: restore.Eager, Detach: true, Channels: 2, Calls: calls,
		Command: []string{lookPath(t), "-accel", vm.Accelerator(), "-machine", "pc,memory-backend=ram0", "-object", "memory-backend-memfd,id=ram0,size=16M,share=on",
			"-m", "16M", "-nodefaults", "-display", "none", "-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off",
			"-chardev", "socket,id=own,path=" + own + ",server=on,wait=off", "-mon", "chardev=own,mode=control"},
	})
	if err != nil {
		return err
	}
	defer func() { v.Signal(syscall.SIGKILL); v.Wait() }()
	w := &machine{bare: attachBare(t, v.PID, own)}
	defer w.monitor.Close()
	w.runs()
	if w.sum() != r.m.memory {
		t.Error("the memory is not what was saved")
	}
	return nil
}

func (r *restoring) each(t *testing.T, f fault) {
	calls := record(func(c *sys.Calls) { do(t, r.once(t, c)) })
	var at []int64
	for i, k := range calls {
		if f.befalls(k) {
			at = append(at, int64(i+1))
		}
	}
	if most := 12; len(at) > most && !vm.Long() {
		rand.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
		at = at[:most]
	}
	failed := 0
	before := holding(t)
	for _, k := range at {
		s := &strike{at: k, fault: f, lasting: f.lasting}
		err := r.once(t, injected(s.act))
		if err != nil {
			failed++
			oneLine(t, err)
			if f.heals {
				t.Errorf("%v: %v", s, err)
			}
		}
		if t.Failed() {
			t.Fatalf("%v: %v", s, err)
		}
	}
	before.nothingMore(t)
	t.Logf("%d calls, %d of them struck: %d restores failed, %d succeeded", len(calls), len(at), failed, len(at)-failed)
	if _, err := os.Stat(r.image); err != nil {
		t.Error(err)
	}
}
