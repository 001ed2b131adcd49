// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PluggedMemory is memory that a device adds to the machine's: a DIMM, an NVDIMM, virtio-mem, virtio-pmem.
type PluggedMemory struct {
	Backend string `json:"memdev"`  // its id, which is the RAM block's name
	Address int64  `json:"address"` // guest-physical
	Size    int64  `json:"size"`    // bytes
}

// dimmAlignment is what QEMU aligns a DIMM to whose memory is not in huge pages (QEMU_VMALLOC_ALIGN).
const dimmAlignment = 2 << 20

// PluggedMemory says where a pc or q35 machine places the DIMMs of its command line (memory_device_get_free_addr):
// where addr says, else at the first free address from the GiB border behind the main memory on. main is what
// PhysicalLayout returns. A device whose place cannot be told so is left out.
func (args Args) PluggedMemory(main []PhysicalRange, blocks []SizedBlock) (all []PluggedMemory) {
	base := int64(4 * gib)
	for _, r := range main {
		base = max(base, (r.Address+r.Length+gib-1)/gib*gib)
	}
	for _, a := range args {
		p := ParseProperties(a.Value, "driver")
		if a.Name != "device" || p.Get("driver") != "pc-dimm" && p.Get("driver") != "nvdimm" {
			continue
		}
		i := slices.IndexFunc(blocks, func(b SizedBlock) bool { return strings.TrimPrefix(b.Name, "/objects/") == p.Get("memdev") })
		if i < 0 {
			continue
		}
		m := PluggedMemory{p.Get("memdev"), base, blocks[i].Length}
		if v := p.Get("addr"); v != "" && v != "0" {
			at, err := strconv.ParseInt(v, 0, 64)
			if err != nil {
				continue
			}
			m.Address = at
		} else {
			if at := args.Backend(m.Backend); at >= 0 && hugePages(ParseProperties(args[at].Value, "qom-type")) {
				return all // aligned to their size, which is the host's
			}
			for _, other := range all { // in rising order
				if m.Address < other.Address+other.Size && other.Address < m.Address+m.Size {
					m.Address = (other.Address + other.Size + dimmAlignment - 1) / dimmAlignment * dimmAlignment
				}
			}
		}
		all = append(all, m)
		slices.SortFunc(all, func(a, b PluggedMemory) int { return int((a.Address - b.Address) >> 12) })
	}
	return all
}

// ParsePlaced takes NAME@ADDRESS, the address as Go and C write numbers; ok is false for a name alone.
func ParsePlaced(s string) (name string, address int64, ok bool, err error) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 || strings.HasPrefix(s, "/rom@") && at == 4 {
		return s, 0, false, nil
	}
	if address, err = strconv.ParseInt(s[at+1:], 0, 64); err != nil || address < 0 || address%4096 != 0 {
		return "", 0, false, fmt.Errorf("cannot read the address in %q: it is a number of bytes, as 0x100000000", s)
	}
	return s[:at], address, true, nil
}
