// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// RAMBlock is a block of guest memory as `info ramblock` shows it (QEMU ram_block_format), in QEMU's own order.
type RAMBlock struct {
	Name string // as in the stream
	Used int64  // bytes that migrate; Total may be larger for a resizable ROM
	Addr uint64 // where it is in QEMU's process
}

// QueryRAMBlocks asks for the blocks that migrate. Those without a name do not (vmstate_register_ram gives the name).
func QueryRAMBlocks(ctx context.Context, m *qmp.Client) ([]RAMBlock, error) {
	text, err := m.Human(ctx, "info ramblock")
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the RAM blocks: %w", err)
	}
	blocks, err := parseRAMBlocks(text)
	if err != nil {
		return nil, fmt.Errorf("cannot read QEMU's list of RAM blocks: %w", err)
	}
	return blocks, nil
}

var errNoAddresses = errors.New("it has no host addresses: this QEMU is older than 8.0; save with --engine=qemu if it is 9.1 or newer, else upgrade QEMU")

// parseRAMBlocks takes lines of: name, page size "4 KiB", offset, used, total, host address, ro or rw. A name may be
// empty or hold spaces, so a line is read from its end.
func parseRAMBlocks(text string) ([]RAMBlock, error) {
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	if !strings.Contains(lines[0], "Block Name") {
		return nil, fmt.Errorf("unexpected answer %.60q", text)
	}
	if !strings.Contains(lines[0], "HVA") {
		return nil, errNoAddresses
	}
	var blocks []RAMBlock
	seen := map[string]bool{}
	for _, line := range lines[1:] {
		if strings.TrimSpace(line) == "" {
			continue
		}
		b, err := parseRAMBlock(line)
		switch {
		case err != nil:
			return nil, err
		case b.Name == "":
			continue
		case seen[b.Name]:
			return nil, fmt.Errorf("block %q is listed twice", b.Name)
		case len(blocks) == cmdline.MaxBlocks:
			return nil, fmt.Errorf("more than %d blocks", cmdline.MaxBlocks)
		}
		seen[b.Name] = true
		blocks = append(blocks, b)
	}
	return blocks, nil
}

func parseRAMBlock(line string) (b RAMBlock, err error) {
	bad := fmt.Errorf("unexpected line %.120q", line)
	f := strings.Fields(line)
	n := len(f)
	if n < 7 {
		return b, bad
	}
	var v [3]uint64 // used, total, address
	for i := range v {
		s, ok := strings.CutPrefix(f[n-4+i], "0x")
		if v[i], err = strconv.ParseUint(s, 16, 64); err != nil || !ok {
			return b, bad
		}
	}
	used, total := v[0], v[1]
	if used > total || total > cmdline.MaxBlockSize || used%guestmem.PageSize != 0 || v[2]%guestmem.PageSize != 0 {
		return b, bad
	}
	// The name is what stands before the page size, "4 KiB".
	size := strings.LastIndex(line, " "+f[n-6]+" ")
	if size < 0 { // apart by something else than spaces
		return b, bad
	}
	unit := strings.LastIndex(line[:size], f[n-7])
	if unit < 0 {
		return b, bad
	}
	return RAMBlock{Name: strings.TrimSpace(line[:unit]), Used: int64(used), Addr: v[2]}, nil
}

// OpenMemory gives access to a block's memory in the VM's process.
func (vm *VM) OpenMemory(b RAMBlock, access guestmem.Access) (guestmem.Memory, error) {
	m, err := guestmem.Open(vm.PID, b.Addr, b.Used, access, vm.Calls)
	if errors.Is(err, guestmem.ErrNotMapped) {
		return nil, fmt.Errorf("process %d does not hold the VM's memory (block %s): somebody else opened the socket %s for QEMU; name QEMU's process with --pid", vm.PID, b.Name, vm.Socket)
	}
	if err != nil {
		return nil, fmt.Errorf("block %s: %w%s", b.Name, err, vm.adviceOnSharing(b, err))
	}
	return m, nil
}

// ptraceScope is where Yama says who may look into which process (Documentation/admin-guide/LSM/Yama.rst).
var ptraceScope = "/proc/sys/kernel/yama/ptrace_scope"

// adviceOnSharing says how a block that may not be looked at could be in shared memory, for which no ptrace(2) access
// is needed.
func (vm *VM) adviceOnSharing(b RAMBlock, err error) string {
	scope, _ := os.ReadFile(ptraceScope)
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return ""
	}
	where := ""
	if s := strings.TrimSpace(string(scope)); s != "" && s != "0" {
		where = "; kernel.yama.ptrace_scope is " + s
	}
	switch args := cmdline.ParseArgs(vm.CommandLine.Args); {
	case args.Backend(b.Name) >= 0, cmdline.DefaultRAM(b.Name):
		return where + "; without that, start QEMU with shared memory: -object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram,aux-ram-share=on"
	case vm.QMP.Greeting().Major >= 10:
		return where + "; without that, start QEMU with -machine aux-ram-share=on, by which memory of firmware and devices like this is shared too"
	}
	return where
}

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
