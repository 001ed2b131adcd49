// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"slices"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qemu"
)

// guest is QEMU's guest for a migration (migration.Guest).
type guest struct{ p *Proxy }

// Open fails with a *qemu.Refusal if only QEMU itself can save this guest.
func (g guest) Open(ctx context.Context) (*migration.View, error) {
	blocks, err := qemu.QueryRAMBlocks(ctx, g.p.vm.QMP)
	if err != nil {
		return nil, err
	}
	g.p.vm.Blocks = blocks
	if err := g.p.vm.NativeSupported(ctx); err != nil {
		return nil, err
	}
	return g.view(blocks, guestmem.Read)
}

func (g guest) view(blocks []qemu.RAMBlock, access guestmem.Access) (*migration.View, error) {
	v := &migration.View{Machine: g.p.vm.MachineType}
	for _, b := range blocks {
		m, err := g.p.vm.OpenMemory(b, access)
		if err != nil {
			return nil, errors.Join(err, v.Close())
		}
		v.Memory = append(v.Memory, m)
		v.Blocks = append(v.Blocks, mappedram.Block{Name: b.Name, Length: b.Used})
	}
	return v, nil
}

func (g guest) Current(ctx context.Context, _ *migration.View) (bool, error) {
	blocks, err := qemu.QueryRAMBlocks(ctx, g.p.vm.QMP)
	return slices.Equal(blocks, g.p.vm.Blocks), err
}

func (g guest) Running(ctx context.Context) (bool, error) {
	status, err := g.p.vm.Status(ctx)
	return status == "running", err
}

// Stop stops the guest. When ctx ends, the guest is resumed at once.
func (g guest) Stop(ctx context.Context) error {
	_, err := g.p.pause.Hold(ctx)
	if errors.Is(err, qemu.ErrNoGuardian) {
		return errors.New("the process that would let the guest go on if ramjet serve died is gone: start ramjet serve anew")
	}
	return err
}

func (g guest) State(ctx context.Context) ([]byte, error) {
	return g.p.vm.DeviceSections(ctx, g.p.state, g.p.pause.ImageState())
}

// Still returns an error if the guest has run since Stop.
func (g guest) Still(ctx context.Context) error { return g.p.pause.Check(ctx) }

// Done leaves the guest stopped until a client says cont, as after a migration by QEMU: it may run elsewhere by now.
func (g guest) Done(ctx context.Context) error {
	if err := g.p.pause.Check(ctx); err != nil {
		return err
	}
	return g.p.pause.End(qemu.ThenStay)
}

func (g guest) Resume(context.Context) error { return g.p.pause.End(qemu.ThenResume) }
