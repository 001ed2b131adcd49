// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/fdset"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// addFD passes a descriptor on. QEMU refuses wrong arguments without taking the descriptor, so they are checked
// before it is sent.
func (p *Proxy) addFD(ctx context.Context, r *qmp.Request) (any, error) {
	return p.pass(ctx, r, new(migration.AddFD))
}

func (p *Proxy) getFD(ctx context.Context, r *qmp.Request) (any, error) {
	return p.pass(ctx, r, new(migration.GetFD))
}

func (p *Proxy) pass(ctx context.Context, r *qmp.Request, args any) (any, error) {
	if err := r.Args(args); err != nil {
		return nil, err
	}
	f, err := r.TakeFile()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var result json.RawMessage
	err = p.vm.QMP.ExecuteFor(ctx, r, r.Name, args, &result, f)
	return result, err
}

// takeSet copies the descriptors of the set that path names out of QEMU into p.sets. With any other path it does
// nothing, and opening the path fails or succeeds later.
func (p *Proxy) takeSet(ctx context.Context, path string) (err error) {
	p.sets.Close()
	defer func() {
		if err != nil {
			p.sets.Close()
		}
	}()
	id, err := fdset.ParsePath(path)
	if !fdset.IsPath(path) || err != nil {
		return nil
	}
	sets, err := p.vm.QMP.QueryFDSets(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(sets, func(s qmp.FDSet) bool { return s.ID == id })
	if i < 0 || id == p.state.Set() {
		return nil
	}
	process, err := unix.PidfdOpen(p.vm.PID, 0)
	if err != nil {
		return fmt.Errorf("cannot get at QEMU's process %d: %w", p.vm.PID, err)
	}
	defer unix.Close(process)
	for _, d := range sets[i].FDs {
		fd, err := unix.PidfdGetfd(process, int(d.FD), 0)
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("no permission to take descriptors from QEMU's process %d: run ramjet serve as root or as its user "+
				"(and see ptrace_scope in ptrace(2))", p.vm.PID)
		}
		if err != nil {
			return fmt.Errorf("cannot take the descriptor fd=%d from QEMU: %w", d.FD, err)
		}
		// Errors name the descriptor by the number that it has in QEMU, which the client knows.
		if _, err := p.sets.AddAs(os.NewFile(uintptr(fd), path), &id, int(d.FD), optional(d.Opaque)); err != nil {
			return err
		}
	}
	return nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// queryFDSets leaves out the proxy's own set, and includes one whose descriptors were removed while a migration uses
// them.
func (p *Proxy) queryFDSets(ctx context.Context, r *qmp.Request) (any, error) {
	if err := r.Args(nil); err != nil {
		return nil, err
	}
	var sets []fdset.Set
	if err := p.vm.QMP.ExecuteFor(ctx, r, "query-fdsets", nil, &sets); err != nil {
		return nil, err
	}
	sets = slices.DeleteFunc(sets, func(s fdset.Set) bool { return s.ID == p.state.Set() })
	if !p.out.Active() {
		return sets, nil
	}
	for _, used := range p.sets.Query() {
		if !slices.ContainsFunc(sets, func(s fdset.Set) bool { return s.ID == used.ID }) {
			sets = append(sets, fdset.Set{ID: used.ID, FDs: []fdset.FD{}})
		}
	}
	slices.SortFunc(sets, func(a, b fdset.Set) int { return int(min(max(b.ID-a.ID, -1), 1)) })
	return sets, nil
}
