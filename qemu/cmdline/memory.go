// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
)

// MappedBlock is a RAM block that is to be mapped from a file when QEMU starts.
type MappedBlock struct {
	Name   string
	Size   int64 // bytes
	Path   string
	Offset int64 // of the block's first page in the file
}

// DefaultRAM reports whether a block is a machine's main memory where no backend is named for it: pc.ram, microvm.ram.
func DefaultRAM(name string) bool {
	return strings.HasSuffix(name, ".ram") && !strings.Contains(name, "/")
}

// Mappable reports whether, under this command line, a block of an image is memory that a backend object provides, and so can come
// from a file.
//
// The memory of a virtio-mem device is not: its block has the name of the device before that of the backend (0000:00:01.0/mem1,
// vmstate_register_ram). It comes through the state stream, as it has to: the device discards what it unplugs, which QEMU refuses for a
// file that is only read (ram_block_discard_range).
func (args Args) Mappable(name string) bool {
	return args.Backend(name) >= 0 || DefaultRAM(name) && args.machineBackend() == ""
}

// MapBlocks changes the memory backends so that the blocks come copy-on-write from files
// (docs/system/vm-templating.rst): QEMU maps them privately, so the guest's writes never reach the file, and nobody
// reads what no guest asks for.
func (args Args) MapBlocks(blocks []MappedBlock) (Args, error) {
	out := slices.Clone(args.Without("mem-path", "mem-prealloc"))
	if err := out.refusePrivate(); err != nil {
		return nil, err
	}
	for _, b := range blocks {
		var p Properties
		at := out.Backend(b.Name)
		if at < 0 {
			p.Set("id", strings.TrimPrefix(b.Name, "/objects/"))
		} else {
			if err := out.refuseMapping(b.Name); err != nil {
				return nil, err
			}
			p = ParseProperties(out[at].Value, "qom-type")
			if hugePages(p) {
				return nil, fmt.Errorf("block %s is to be in huge pages, which cannot be mapped from an image: use --mode=eager", b.Name)
			}
			p.Delete("share", "mem-path", "hugetlb", "hugetlbsize", "seal", "prealloc", "prealloc-threads",
				"prealloc-context", "align", "pmem", "readonly", "rom", "offset", "discard-data")
		}
		p.Set("qom-type", "memory-backend-file")
		p.Set("size", b.Size)
		p.Set("mem-path", b.Path)
		p.Set("offset", b.Offset)
		p.Set("share", false)
		p.Set("readonly", true)
		p.Set("rom", "off")
		// Before machine types 4.0 a backend's block has its path for a name, unless the machine made it
		// (create_default_memdev).
		p.Set("x-use-canonical-path-for-ramblock-id", strings.HasPrefix(b.Name, "/objects/"))
		object := Arg{Name: "object", Value: p.String("qom-type"), HasValue: true}
		if at >= 0 {
			out[at] = object
			continue
		}
		out = append(out, object).With("machine", "memory-backend="+b.Name)
	}
	return out, nil
}

// refusePrivate refuses devices of which another process must see the guest's memory.
func (args Args) refusePrivate() error {
	for _, a := range args {
		if a.Name == "device" || a.Name == "netdev" || a.Name == "chardev" {
			if v := a.Value; strings.Contains(v, "vhost-user") || strings.Contains(v, "ivshmem") {
				return fmt.Errorf("%.40s shares the guest's memory with another process, which a private mapping of the image cannot be: use --mode=eager", v)
			}
		}
	}
	return nil
}

// CheckWritable refuses to fill a block whose backend gives the VM memory that cannot be written, or whose file is only
// to be read (docs/system/vm-templating.rst; with rom=auto memory that is readonly is ROM).
func (args Args) CheckWritable(name string) error {
	at := args.Backend(name)
	if at < 0 {
		return nil
	}
	p := ParseProperties(args[at].Value, "qom-type")
	if !isOn(p, "readonly") || p.Get("rom") == "off" && !isOn(p, "share") {
		return nil
	}
	return fmt.Errorf("block %s is to be in the file %s with readonly=on, into which nothing is loaded: leave readonly=on out, or use --mode=instant, which takes the memory from the image",
		name, p.Get("mem-path"))
}

func hugePages(p Properties) bool {
	return isOn(p, "hugetlb") || strings.Contains(p.Get("mem-path"), "hugepages")
}

// Backend is the index of the -object memory-backend-* whose block has this name, or -1. That is its id or, with
// machine types before 4.0, its path (host_memory_backend_get_name).
func (args Args) Backend(name string) int {
	id := strings.TrimPrefix(name, "/objects/")
	for i, a := range args {
		if a.Name != "object" {
			continue
		}
		p := ParseProperties(a.Value, "qom-type")
		if p.Get("id") == id && strings.HasPrefix(p.Get("qom-type"), "memory-backend-") {
			return i
		}
	}
	return -1
}

// machineBackend is the backend that -machine names for the main memory, or "".
func (args Args) machineBackend() string {
	id := ""
	for _, a := range args {
		if a.Name == "machine" || a.Name == "M" {
			if v := ParseProperties(a.Value, "type").Get("memory-backend"); v != "" {
				id = v
			}
		}
	}
	return id
}

// CheckMemorySize compares -m with the image's main memory, where the machine has one block of it.
func (args Args) CheckMemorySize(name string, size int64) error {
	main := args.machineBackend()
	if !DefaultRAM(name) && main != strings.TrimPrefix(name, "/objects/") {
		return nil
	}
	m, given, err := args.MemorySize()
	if err != nil || m == size || main != "" && !given {
		return err // without -m the backend's size counts
	}
	return sizeMismatch(name, size, m)
}

func sizeMismatch(name string, image, vm int64) error {
	return fmt.Errorf("the image's memory %s has %s, this command line asks for %s: use -m %s", name, humanSize(image), humanSize(vm), FlagSize(image))
}

func humanSize(n int64) string {
	return units.CustomSize("%.4g %s", float64(n), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB"})
}

// FlagSize writes a size in bytes as -m takes it, exactly.
func FlagSize(n int64) string {
	switch {
	case n%(1<<30) == 0:
		return fmt.Sprintf("%dG", n>>30)
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	}
	return fmt.Sprintf("%dK", n>>10)
}

// Limits on the answers of a monitor.
const (
	MaxBlocks    = 4096
	MaxBlockSize = 1 << 50
)
