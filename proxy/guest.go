// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"slices"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/qemu"
)

// guest is the QEMU's guest as a migration sees it.
type guest struct{ *Proxy }

// Open refuses (*qemu.Refusal) what only QEMU itself can save.
func (g guest) Open(ctx context.Context) (*monitor.View, error) {
	blocks, err := qemu.QueryRAMBlocks(ctx, g.vm.Monitor)
	if err != nil {
		return nil, err
	}
	g.vm.Blocks = blocks
	if err := g.vm.NativeSupported(ctx); err != nil {
		return nil, err
	}
	return g.view(blocks, guestmem.Read)
}

func (g guest) view(blocks []qemu.RAMBlock, access guestmem.Access) (*monitor.View, error) {
	v := &monitor.View{Machine: g.vm.MachineType}
	for _, b := range blocks {
		m, err := g.vm.OpenMemory(b, access)
		if err != nil {
			return nil, errors.Join(err, v.Close())
		}
		v.Memory = append(v.Memory, m)
		v.Blocks = append(v.Blocks, mappedram.Block{Name: b.Name, Length: b.Used})
	}
	return v, nil
}

func (g guest) Current(ctx context.Context, _ *monitor.View) (bool, error) {
	blocks, err := qemu.QueryRAMBlocks(ctx, g.vm.Monitor)
	return slices.Equal(blocks, g.vm.Blocks), err
}

func (g guest) Running(ctx context.Context) (bool, error) {
	status, err := g.vm.Status(ctx)
	return status == "running", err
}

// Stop stops the guest. It goes on as soon as ctx ends, whatever is waited for then.
func (g guest) Stop(ctx context.Context) error {
	_, err := g.pause.Hold(ctx)
	if errors.Is(err, qemu.ErrNoGuardian) {
		return errors.New("the process that would let the guest go on if ramjet serve died is gone: start ramjet serve anew")
	}
	return err
}

func (g guest) State(ctx context.Context) ([]byte, error) {
	return g.vm.DeviceSections(ctx, g.state, g.pause.ImageState())
}

// Still returns an error if the guest did not stand still since Stop.
func (g guest) Still(ctx context.Context) error { return g.pause.Check(ctx) }

// Done leaves the guest as it stands, as after a migration by QEMU, until somebody says cont: it may live on elsewhere by now.
func (g guest) Done(ctx context.Context) error {
	if err := g.pause.Check(ctx); err != nil {
		return err
	}
	return g.pause.End(qemu.ThenStay)
}

func (g guest) Resume(context.Context) error { return g.pause.End(qemu.ThenResume) }
