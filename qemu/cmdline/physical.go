// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// PhysicalRange is a part of a RAM block and where the guest sees it.
type PhysicalRange struct {
	Block   string
	Offset  int64 // in the block
	Length  int64
	Address int64 // guest-physical
}

// SizedBlock is a RAM block's name and length in bytes.
type SizedBlock struct {
	Name   string
	Length int64
}

const gib = 1 << 30

// MainMemory says which of an image's blocks are the machine's main memory, in the order of their addresses: the one
// that -machine names, the nodes of NUMA, or the machine's own. Where args say nothing of it there must be one block
// only that can be it.
func (args Args) MainMemory(blocks []SizedBlock) ([]SizedBlock, error) {
	find := func(name string) (SizedBlock, bool) {
		i := slices.IndexFunc(blocks, func(b SizedBlock) bool { return b.Name == name })
		if i < 0 {
			return SizedBlock{}, false
		}
		return blocks[i], true
	}
	names := args.numaBackends()
	if id := args.machineBackend(); id != "" {
		names = []string{id}
	}
	if len(names) == 0 {
		for _, b := range blocks {
			if DefaultRAM(b.Name) {
				return []SizedBlock{b}, nil
			}
		}
		return guessMemory(blocks)
	}
	var main []SizedBlock
	for _, n := range names {
		b, ok := find(n)
		if !ok {
			return nil, fmt.Errorf("the image has no memory %q, which its command line names", n)
		}
		main = append(main, b)
	}
	return main, nil
}

// errMemory asks for help.
var errMemory = errors.New("it does not say which of its blocks are the machine's main memory, and in which order: name them with --memory")

// guessMemory takes the only block that is neither firmware nor a device's.
func guessMemory(blocks []SizedBlock) ([]SizedBlock, error) {
	var found []SizedBlock
	for _, b := range blocks {
		if !strings.ContainsAny(b.Name, "/@") && b.Name != "pc.bios" && b.Name != "pc.rom" && !strings.HasPrefix(b.Name, "system.flash") {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		return nil, errMemory
	}
	return found, nil
}

// numaBackends are the memory backends of the NUMA nodes, by node.
func (args Args) numaBackends() []string {
	type node struct {
		id     int
		memdev string
	}
	var nodes []node
	for _, a := range args {
		if a.Name != "numa" {
			continue
		}
		p := ParseProperties(a.Value, "type")
		if p.Get("type") != "node" || p.Get("memdev") == "" {
			continue
		}
		id, err := strconv.Atoi(p.Get("nodeid"))
		if err != nil {
			id = len(nodes)
		}
		nodes = append(nodes, node{id, p.Get("memdev")})
	}
	slices.SortStableFunc(nodes, func(a, b node) int { return a.id - b.id })
	var names []string
	for _, n := range nodes {
		names = append(names, n.memdev)
	}
	return names
}

// PhysicalLayout says where the main memory of an x86 machine lies: from address 0 up to a gap for devices, and from
// 4 GiB on. (An AMD processor with more than a TiB has some of it elsewhere; that is not known here.)
func PhysicalLayout(machine string, args Args, main []SizedBlock) ([]PhysicalRange, error) {
	var total int64
	for _, b := range main {
		total += b.Length
	}
	low, err := lowMemory(machine, args, total)
	if err != nil {
		return nil, err
	}
	var ranges []PhysicalRange
	at := int64(0) // in the memory as a whole
	for _, b := range main {
		for off := int64(0); off < b.Length; {
			r := PhysicalRange{b.Name, off, b.Length - off, at}
			if at < low {
				r.Length = min(r.Length, low-at)
			} else {
				r.Address = 4*gib + at - low
			}
			ranges = append(ranges, r)
			off, at = off+r.Length, at+r.Length
		}
	}
	return ranges, nil
}

// lowMemory is how much of total lies below 4 GiB: pc_init1 (hw/i386/pc_piix.c), pc_q35_init (pc_q35.c),
// microvm_memory_init (microvm.c), for machine types of 2.0 and later.
func lowMemory(machine string, args Args, total int64) (int64, error) {
	limit, err := args.maxRAMBelow4G()
	if err != nil {
		return 0, err
	}
	low := total
	switch {
	case strings.HasPrefix(machine, "pc-q35-"):
		if low = 0xb0000000; total >= low || machine == "pc-q35-4.1" {
			low = 0x80000000
		}
		if limit != 0 {
			low = min(low, limit)
		}
	case strings.HasPrefix(machine, "pc-i440fx-"):
		if low = limit; low == 0 {
			low = 0xe0000000
		}
		if total >= low {
			low = min(low, 0xc0000000)
		}
	case strings.HasPrefix(machine, "microvm"):
		low = 0xc0000000
	case machine == "isapc":
	default:
		return 0, fmt.Errorf("where a machine %s has its memory is not known here (pc, q35, microvm and isapc are)", machine)
	}
	return min(low, total), nil
}

// maxRAMBelow4G is -machine max-ram-below-4g=SIZE, or 0.
func (args Args) maxRAMBelow4G() (int64, error) {
	size := int64(0)
	for _, a := range args {
		if a.Name != "machine" && a.Name != "M" {
			continue
		}
		if v := ParseProperties(a.Value, "type").Get("max-ram-below-4g"); v != "" {
			n, err := units.RAMInBytes(v)
			if err != nil || n <= 0 {
				return 0, fmt.Errorf("cannot read the size in -machine %s", a.Value)
			}
			size = n
		}
	}
	return size, nil
}
