// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

func lookPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(vm.Program())
	do(t, err)
	return path
}

// fault is one way in which a call goes wrong.
type fault struct {
	name    string
	befalls func(kind) bool // which calls it can happen to
	do      act
	lasting bool // the calls of that kind after it fare no better
	heals   bool // the work has to succeed all the same
	each    bool // every call is struck, not some of them, however short the tests are to be
}

func only(kinds ...kind) func(kind) bool {
	return func(k kind) bool { return slices.Contains(kinds, k) }
}

func failing(err error) act { return func(kind, int) (int, error) { return 0, err } }

// file are the calls on files, memory those on guest memory, of which a signal may interrupt each, and
// transfers those that may move less than they were asked to.
var (
	file      = only(open, pread, pwrite, fallocate, fsync, ftruncate, link, rename, unlink)
	memory    = only(readVM, writeVM, memPread, memPwrite, seek, scan)
	transfers = only(pread, pwrite, readVM, writeVM, memPread, memPwrite, send, receive)
)

func either(a, b func(kind) bool) func(kind) bool { return func(k kind) bool { return a(k) || b(k) } }

// half cuts what a call moves: to a multiple of a disk's sectors, if it is that long.
func half(_ kind, length int) (int, error) {
	keep := length / 2
	if keep >= 512 {
		keep &^= 511
	}
	return length - max(keep, min(length, 1)), nil
}

var faults = []fault{
	{name: "EIO", befalls: either(file, memory), do: failing(unix.EIO), each: true},
	{name: "EIO for good", befalls: either(file, memory), do: failing(unix.EIO), lasting: true},
	{name: "ENOSPC", befalls: only(open, pwrite, ftruncate, fsync, link, rename), do: failing(unix.ENOSPC), lasting: true},
	{name: "EINVAL", befalls: only(pwrite, pread), do: failing(unix.EINVAL)},
	{name: "EPIPE", befalls: only(send, receive), do: failing(unix.EPIPE)},
	{name: "EINTR", befalls: either(file, memory), do: failing(unix.EINTR), heals: true},
	{name: "short", befalls: transfers, do: half, heals: true},
	{name: "always short", befalls: transfers, do: half, lasting: true},
	{name: "slow", befalls: func(kind) bool { return true }, heals: true,
		do: func(kind, int) (int, error) { time.Sleep(20 * time.Millisecond); return 0, nil }},
}

// TestSaveFaults lets each call of a save fail in each way.
func TestSaveFaults(t *testing.T) {
	for _, backend := range []string{"memfd", "ram"} {
		t.Run(backend, func(t *testing.T) {
			m := newMachine(t, backend)
			for _, old := range []bool{false, true} {
				p := newPlace(t, m, old)
				w := &work{p: p, vm: m.bare, save: m.save(p)}
				for _, f := range faults {
					most := 30
					switch {
					case vm.Long(), f.each && backend == "memfd" && !old:
						most = 1000
					case old:
						most = 6
					}
					t.Run(fmt.Sprintf("%s, %s", f.name, map[bool]string{true: "old image", false: "no image"}[old]), func(t *testing.T) { w.each(t, f, most) })
				}
				m.unharmed(t)
			}
		})
	}
}

// TestSaveStuck lets calls of a save hang, and then cancels it: the VM runs at once, the save ends when the call does.
func TestSaveStuck(t *testing.T) {
	for _, backend := range []string{"memfd", "ram"} {
		t.Run(backend, func(t *testing.T) {
			m := newMachine(t, backend)
			p := newPlace(t, m, true)
			w := &work{p: p, vm: m.bare, save: m.save(p)}
			w.stuck(t)
			m.unharmed(t)
		})
	}
}

// newPlace makes a directory, and an image in it if there is to be an old one.
func newPlace(t *testing.T, m *machine, old bool) *place {
	t.Helper()
	dir := t.TempDir()
	p := &place{dir: dir, image: filepath.Join(dir, "image")}
	if old {
		r, err := m.save(p)(t.Context(), nil)
		do(t, err)
		p.old = r.ID
	}
	return p
}

type saving = func(ctx context.Context, calls *sys.Calls) (*save.Result, error)

func (m *machine) save(p *place) saving {
	return func(ctx context.Context, calls *sys.Calls) (*save.Result, error) {
		return save.Save(ctx, save.Options{Image: p.image, Socket: m.socket, Force: p.old != "", Channels: 2, Calls: calls})
	}
}

// work is a save that is made again and again.
type work struct {
	p    *place
	vm   *bare
	save saving
}

// each has the fault befall each call that it can befall, or as many of them, chosen at random.
func (w *work) each(t *testing.T, f fault, most int) {
	calls := record(func(c *sys.Calls) { _, err := w.save(t.Context(), c); do(t, err) })
	w.p.reset(t)
	var at []int64
	for i, k := range calls {
		if f.befalls(k) {
			at = append(at, int64(i+1))
		}
	}
	if len(at) > most {
		rand.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
		at = at[:most]
	}
	failed := 0
	before := holding(t)
	for _, k := range at {
		if w.once(t, &strike{at: k, fault: f, lasting: f.lasting}, f) {
			failed++
		}
		if t.Failed() {
			return
		}
	}
	before.nothingMore(t)
	w.vm.clean()
	t.Logf("%d calls, %d of them struck: %d saves failed, %d succeeded", len(calls), len(at), failed, len(at)-failed)
}

// once makes one save in which s happens, and says whether it failed.
func (w *work) once(t *testing.T, s *strike, f fault) (failed bool) {
	_, err := w.save(t.Context(), injected(s.act))
	w.vm.runs()
	w.p.files(t)
	isNew := w.p.what(t)
	switch {
	case err == nil && !isNew:
		t.Errorf("%v: the save says it succeeded, and there is no new image", s)
	case err != nil && f.heals:
		t.Errorf("%v: %v", s, err)
	case err != nil && isNew && !strings.Contains(err.Error(), "durable"):
		t.Errorf("%v: the save says it failed, and there is a new image: %v", s, err)
	}
	if err != nil {
		oneLine(t, err)
	}
	w.p.reset(t)
	return err != nil
}

// stuck hangs calls of each kind, the first, the last and some between, and cancels the save.
func (w *work) stuck(t *testing.T) {
	calls := record(func(c *sys.Calls) { _, err := w.save(t.Context(), c); do(t, err) })
	w.p.reset(t)
	at := map[kind][]int64{}
	for i, k := range calls {
		at[k] = append(at[k], int64(i+1))
	}
	for k, all := range at {
		t.Run(string(k), func(t *testing.T) {
			before := holding(t)
			for i := range min(len(all), 5) {
				w.hang(t, k, all[i*len(all)/min(len(all), 5)])
			}
			before.nothingMore(t)
			w.vm.clean()
		})
	}
}

// hang makes one save in which a call of the kind hangs.
func (w *work) hang(t *testing.T, k kind, at int64) {
	hangs, release := make(chan struct{}), make(chan struct{})
	s := &strike{at: at, fault: fault{name: "stuck", befalls: only(k), do: func(kind, int) (int, error) {
		close(hangs)
		<-release
		return 0, nil
	}}}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stopped := errors.New("the user is tired of it")
	ended := make(chan error, 1)
	go func() { _, err := w.save(ctx, injected(s.act)); ended <- err }()
	select {
	case <-hangs:
	case err := <-ended: // another order of calls than in the record
		w.p.reset(t)
		if err != nil {
			t.Error(err)
		}
		return
	}
	cancel(stopped)
	if k != send && k != receive { // else nobody can tell QEMU to go on
		w.vm.runs()
	}
	close(release)
	err := <-ended
	w.vm.runs()
	w.p.files(t)
	if isNew := w.p.what(t); err == nil && !isNew || err != nil && isNew {
		t.Errorf("%v: the save says %v; new image: %v", s, err, isNew)
	}
	if err != nil && !errors.Is(err, stopped) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v: %v", s, err)
	}
	w.p.reset(t)
}
