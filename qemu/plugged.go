// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// PluggedMemory asks the VM where such memory is, whether it was there from the start or plugged in later.
func (vm *VM) PluggedMemory(ctx context.Context) ([]cmdline.PluggedMemory, error) {
	var devices []struct {
		Data struct {
			Memdev  string
			Addr    int64 // of a DIMM
			MemAddr int64 `json:"memaddr"` // of a virtio device
			Size    int64
			MaxSize int64 `json:"max-size"` // virtio-mem: the backend's
		}
	}
	if err := vm.QMP.Execute(ctx, "query-memory-devices", nil, &devices); err != nil {
		return nil, err
	}
	var all []cmdline.PluggedMemory
	for _, d := range devices {
		d := d.Data
		all = append(all, cmdline.PluggedMemory{Backend: strings.TrimPrefix(d.Memdev, "/objects/"), Address: max(d.Addr, d.MemAddr), Size: max(d.Size, d.MaxSize)})
	}
	return all, nil
}
