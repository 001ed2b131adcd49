// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
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

func (g guest) Stop(ctx context.Context) error {
	status, err := g.vm.Status(ctx)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.was = status
	g.mu.Unlock()
	if status != "running" {
		return nil
	}
	if err := g.order(true); err != nil {
		return errNoGuardian
	}
	return g.vm.Stop(ctx)
}

func (g guest) State(ctx context.Context) ([]byte, error) {
	g.mu.Lock()
	was := g.was
	g.mu.Unlock()
	return g.vm.DeviceSections(ctx, g.state, was)
}

func (g guest) Done(ctx context.Context) error {
	status, err := g.vm.Status(ctx)
	if err != nil {
		return err
	}
	if status == "running" {
		return errors.New("somebody let the guest go on while it was being saved")
	}
	g.mu.Lock()
	g.was, g.moved = "", true
	g.mu.Unlock()
	// As after a migration by QEMU the guest stands still until somebody says cont: it may live on elsewhere by now. A guardian
	// that is gone will not let it go on either, and the image is complete.
	_ = g.order(false)
	return nil
}

func (g guest) Resume(ctx context.Context) error {
	g.mu.Lock()
	was := g.was
	g.was = ""
	g.mu.Unlock()
	if was != "running" {
		return nil
	}
	if err := g.vm.Cont(ctx); err != nil {
		return fmt.Errorf("cannot let the guest go on (send it \"cont\"): %w", err)
	}
	return g.order(false)
}
