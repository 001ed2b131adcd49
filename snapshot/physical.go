// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/qemu"
)

// findPlugged asks where plugged memory is, for the seal. Nobody needs that to restore the VM, so it may fail.
func (s *save) findPlugged(ctx context.Context) {
	s.plugged = nil
	plugged, err := s.vm.PluggedMemory(ctx)
	if err == nil && len(plugged) > 0 {
		s.plugged, err = json.Marshal(plugged)
	}
	if err != nil {
		s.log("not recorded where plugged memory is: %v", err)
	}
}

// physical says where the guest sees an image's memory, in the order of addresses. The machine's main memory is named by memory, in
// the order of addresses, where the image does not say; NAME@ADDRESS there is memory that is plugged in at that address.
func physical(m *openedImage, memory []string) ([]qemu.PhysicalRange, error) {
	p := &physicalMemory{}
	for _, b := range m.Blocks {
		if !b.Ignored {
			p.blocks = append(p.blocks, qemu.SizedBlock{Name: b.Name, Length: b.Length})
		}
	}
	if m.Seal != nil {
		p.args = qemu.ParseArgs(m.Seal.CommandLine)
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
	blocks   []qemu.SizedBlock
	args     qemu.Args
	recorded []qemu.PluggedMemory // by the seal
	placed   []qemu.PluggedMemory // by the user
}

// find returns the block of a memory backend.
func (p *physicalMemory) find(name string) (qemu.SizedBlock, error) {
	i := slices.IndexFunc(p.blocks, func(b qemu.SizedBlock) bool {
		return strings.TrimPrefix(b.Name, "/objects/") == strings.TrimPrefix(name, "/objects/")
	})
	if i < 0 {
		return qemu.SizedBlock{}, fmt.Errorf("it has no memory %q (ramjet inspect lists its blocks)", name)
	}
	return p.blocks[i], nil
}

// named takes the user's words apart and returns the main memory.
func (p *physicalMemory) named(memory []string) (main []qemu.SizedBlock, err error) {
	for _, word := range memory {
		name, address, placed, err := qemu.ParsePlaced(word)
		if err != nil {
			return nil, err
		}
		b, err := p.find(name)
		switch {
		case err != nil:
			return nil, err
		case placed:
			p.placed = append(p.placed, qemu.PluggedMemory{Backend: name, Address: address, Size: b.Length})
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

// isPlugged tells whether the seal or the command line say that a backend's memory is a device's.
func (p *physicalMemory) isPlugged(name string) bool {
	is := func(m qemu.PluggedMemory) bool { return m.Backend == strings.TrimPrefix(name, "/objects/") }
	return slices.ContainsFunc(p.recorded, is) || slices.ContainsFunc(p.args.PluggedMemory(nil, p.blocks), is)
}

// layout puts plugged memory behind the main memory: where the user says, else the seal, else the command line.
func (p *physicalMemory) layout(machine string, main []qemu.SizedBlock) ([]qemu.PhysicalRange, error) {
	ranges, err := qemu.PhysicalLayout(machine, p.args, main)
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Concat(p.placed, p.recorded, p.args.PluggedMemory(ranges, p.blocks)) {
		b, err := p.find(m.Backend)
		if err != nil || slices.ContainsFunc(ranges, func(r qemu.PhysicalRange) bool { return r.Block == b.Name }) {
			continue // unplugged since, or placed already
		}
		r := qemu.PhysicalRange{Block: b.Name, Length: b.Length, Address: m.Address}
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
	slices.SortStableFunc(ranges, func(a, b qemu.PhysicalRange) int {
		if a.Address < b.Address {
			return -1
		}
		return 1
	})
	return ranges, nil
}

// atAddresses says of ranges where the guest sees them, if one of the images tells, and divides those that lie on both sides of a gap.
func (d *diff) atAddresses(ranges []DiffRange) []DiffRange {
	layout, err := physical(d.a.image, nil)
	if err != nil {
		if layout, err = physical(d.b.image, nil); err != nil {
			return ranges
		}
	}
	divided := []DiffRange{}
	for _, r := range ranges {
		for r.Pages > 0 {
			part := r
			start := r.First * mappedram.PageSize
			i := slices.IndexFunc(layout, func(l qemu.PhysicalRange) bool {
				return l.Block == r.Block && l.Offset <= start && start < l.Offset+l.Length
			})
			if i >= 0 {
				part.Address = layout[i].Address + start - layout[i].Offset
				part.Pages = min(r.Pages, (layout[i].Offset+layout[i].Length-start)/mappedram.PageSize)
			}
			divided = append(divided, part)
			r.First, r.Pages = r.First+part.Pages, r.Pages-part.Pages
		}
	}
	return divided
}
