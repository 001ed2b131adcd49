// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/mappedram"
)

// GuestMemory says where the guest sees an image's memory, in the order of addresses. The machine's main memory is
// named by memory, in the order of addresses, where the image does not say; NAME@ADDRESS there is memory that is
// plugged in at that address.
func GuestMemory(m *mappedram.Image, memory []string) ([]PhysicalRange, error) {
	p := &physicalMemory{}
	for _, b := range m.Blocks {
		if !b.Ignored {
			p.blocks = append(p.blocks, SizedBlock{Name: b.Name, Length: b.Length})
		}
	}
	if m.Seal != nil {
		p.args = ParseArgs(m.Seal.CommandLine)
		if len(m.Seal.MemoryDevices) > 0 {
			if err := json.Unmarshal(m.Seal.MemoryDevices, &p.recorded); err != nil {
				return nil, fmt.Errorf("what its seal says of plugged memory cannot be read: %w", err)
			}
		}
	}
	main, err := p.named(memory)
	if err != nil {
		return nil, err
	}
	return p.layout(m.Config.MachineType, main)
}

// physicalMemory is what physical puts together.
type physicalMemory struct {
	blocks   []SizedBlock
	args     Args
	recorded []PluggedMemory // by the seal
	placed   []PluggedMemory // by the user
}

// find returns the block of a memory backend.
func (p *physicalMemory) find(name string) (SizedBlock, error) {
	i := slices.IndexFunc(p.blocks, func(b SizedBlock) bool {
		return strings.TrimPrefix(b.Name, "/objects/") == strings.TrimPrefix(name, "/objects/")
	})
	if i < 0 {
		return SizedBlock{}, fmt.Errorf("it has no memory %q (ramjet inspect lists its blocks)", name)
	}
	return p.blocks[i], nil
}

// named takes the user's words apart and returns the main memory.
func (p *physicalMemory) named(memory []string) (main []SizedBlock, err error) {
	for _, word := range memory {
		name, address, placed, err := ParsePlaced(word)
		if err != nil {
			return nil, err
		}
		b, err := p.find(name)
		switch {
		case err != nil:
			return nil, err
		case placed:
			p.placed = append(p.placed, PluggedMemory{Backend: name, Address: address, Size: b.Length})
		case !p.isPlugged(name):
			main = append(main, b)
		}
	}
	if main == nil {
		return p.args.MainMemory(p.blocks)
	}
	if known, err := p.args.MainMemory(p.blocks); err == nil && len(p.args) > 0 {
		for _, b := range main {
			if !slices.Contains(known, b) {
				return nil, fmt.Errorf("%s is not the machine's main memory, and nothing says where it is plugged in: name it with its address, --memory %s,%s@ADDRESS",
					b.Name, known[0].Name, b.Name)
			}
		}
	}
	return main, nil
}

// isPlugged reports whether the seal or the command line say that a backend's memory is a device's.
func (p *physicalMemory) isPlugged(name string) bool {
	is := func(m PluggedMemory) bool { return m.Backend == strings.TrimPrefix(name, "/objects/") }
	return slices.ContainsFunc(p.recorded, is) || slices.ContainsFunc(p.args.PluggedMemory(nil, p.blocks), is)
}

// layout puts plugged memory behind the main memory: where the user says, else the seal, else the command line.
func (p *physicalMemory) layout(machine string, main []SizedBlock) ([]PhysicalRange, error) {
	ranges, err := PhysicalLayout(machine, p.args, main)
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Concat(p.placed, p.recorded, p.args.PluggedMemory(ranges, p.blocks)) {
		b, err := p.find(m.Backend)
		if err != nil || slices.ContainsFunc(ranges, func(r PhysicalRange) bool { return r.Block == b.Name }) {
			continue // unplugged since, or placed already
		}
		r := PhysicalRange{Block: b.Name, Length: b.Length, Address: m.Address}
		if r.Address < 0 || r.Address > 1<<52 || r.Address%mappedram.PageSize != 0 {
			return nil, fmt.Errorf("%w: memory %s is said to be at %#x", mappedram.ErrDamaged, b.Name, r.Address)
		}
		for _, other := range ranges {
			if r.Address < other.Address+other.Length && other.Address < r.Address+r.Length {
				return nil, fmt.Errorf("memory %s at %#x is where %s is: name both with --memory", b.Name, r.Address, other.Block)
			}
		}
		ranges = append(ranges, r)
	}
	slices.SortStableFunc(ranges, func(a, b PhysicalRange) int {
		if a.Address < b.Address {
			return -1
		}
		return 1
	})
	return ranges, nil
}
