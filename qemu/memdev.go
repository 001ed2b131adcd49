// SPDX-License-Identifier: Apache-2.0

package qemu

import "context"

// MemoryBackends are the ids of the VM's memory backends, hot-plugged ones and a machine's default RAM included. A
// RAM block has its backend's id as its name (host_memory_backend_get_name). All other blocks are firmware and
// devices' own memory.
func (vm *VM) MemoryBackends(ctx context.Context) (map[string]bool, error) {
	var devices []struct{ ID string }
	if err := vm.QMP.Execute(ctx, "query-memdev", nil, &devices); err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, d := range devices {
		ids[d.ID] = true
	}
	return ids, nil
}
