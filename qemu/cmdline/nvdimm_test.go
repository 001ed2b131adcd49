// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"strings"
	"testing"
)

// TestPersistentMemory (15.13) has what an instant restore would not do right: memory that is persistent, or given back to the host.
func TestPersistentMemory(t *testing.T) {
	for line, want := range map[string]string{
		"-object memory-backend-file,id=m,size=1M,mem-path=/n,share=on -device nvdimm,id=nv0,memdev=m":                    "nvdimm nv0",
		`-object memory-backend-file,id=m,size=1M,mem-path=/n -device {"driver":"nvdimm","id":"nv0","memdev":"m"}`:        "nvdimm nv0",
		"-object memory-backend-file,id=m,size=1M,mem-path=/n,share=on,pmem=on -device virtio-pmem-pci,id=p,memdev=m":     "virtio-pmem-pci p",
		"-object memory-backend-ram,id=m,size=1M -device virtio-mem-pci,id=vm0,memdev=m":                                  "virtio-mem-pci vm0",
		"-object memory-backend-ram,id=m,size=1M -device pc-dimm,id=d,memdev=m":                                           "",
		"-object memory-backend-ram,id=m,size=1M -object memory-backend-ram,id=o,size=1M -device virtio-mem-pci,memdev=o": "",
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
