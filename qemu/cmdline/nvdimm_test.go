// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"strings"
	"testing"
)

// TestPersistentMemory (15.13) has persistent memory, which an instant restore would not do right.
func TestPersistentMemory(t *testing.T) {
	for line, want := range map[string]string{
		"-object memory-backend-file,id=m,size=1M,mem-path=/n,share=on -device nvdimm,id=nv0,memdev=m":                "nvdimm nv0",
		`-object memory-backend-file,id=m,size=1M,mem-path=/n -device {"driver":"nvdimm","id":"nv0","memdev":"m"}`:    "nvdimm nv0",
		"-object memory-backend-file,id=m,size=1M,mem-path=/n,share=on,pmem=on -device virtio-pmem-pci,id=p,memdev=m": "virtio-pmem-pci p",
		"-object memory-backend-ram,id=m,size=1M -device pc-dimm,id=d,memdev=m":                                       "",
	} {
		args := ParseArgs(strings.Fields(line))
		for _, name := range []string{"m", "/objects/m"} { // with machine types before 4.0
			_, err := args.MapBlocks([]MappedBlock{{Name: name, Size: 1 << 20, Path: "/image"}})
			if (err == nil) != (want == "") || err != nil && !(strings.Contains(err.Error(), want) && strings.Contains(err.Error(), "--mode=eager")) {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}

// TestVirtioMemIsNotMapped (15.13): the block of a virtio-mem device's backend is not memory that comes from a file.
func TestVirtioMemIsNotMapped(t *testing.T) {
	args := ParseArgs(strings.Fields("-object memory-backend-ram,id=m,size=1M -device virtio-mem-pci,id=vm0,memdev=m"))
	if args.Mappable("0000:00:01.0/m") {
		t.Error("it is mapped")
	}
}

// TestNotFilled (15.6) has backends into whose memory an eager restore does not write.
func TestNotFilled(t *testing.T) {
	for properties, refused := range map[string]bool{
		"share=on":                      false,
		"share=on,readonly=on":          true,
		"share=on,readonly=on,rom=off":  true,
		"share=off,readonly=on":         true,
		"share=off,readonly=on,rom=off": false, // a template: what is written is the VM's own
		"readonly=off":                  false,
	} {
		args := ParseArgs([]string{"-object", "memory-backend-file,id=m,size=1M,mem-path=/x," + properties})
		if err := args.CheckWritable("m"); (err != nil) != refused || err != nil && !strings.Contains(err.Error(), "/x") {
			t.Errorf("%s: %v", properties, err)
		}
	}
}
