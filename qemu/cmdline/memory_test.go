// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"strings"
	"testing"
)

// mapped is what a backend has when it is mapped from the file that the tests name.
const mapped = "size=1048576,mem-path=/f,,1,offset=8192,share=off,readonly=on,rom=off,x-use-canonical-path-for-ramblock-id=off"

func TestMapBlocks(t *testing.T) {
	for _, c := range []struct{ args, block, want string }{
		{"-m 1M", "pc.ram", "-m 1M -object memory-backend-file,id=pc.ram," + mapped + " -machine memory-backend=pc.ram"},
		{"-mem-path /dev/hugepages -mem-prealloc -m 1M", "pc.ram", "-m 1M -object memory-backend-file,id=pc.ram," + mapped + " -machine memory-backend=pc.ram"},
		{"-object memory-backend-memfd,id=a,size=1M,share=on,seal=off -machine pc,memory-backend=a", "a",
			"-object memory-backend-file,id=a," + mapped + " -machine pc,memory-backend=a"},
		{"-machine pc,memory-backend=a -object memory-backend-file,size=1M,id=a,mem-path=/old,offset=1M,pmem=on,align=2M,discard-data=on,prealloc=on,dump=off", "a",
			"-machine pc,memory-backend=a -object memory-backend-file,size=1048576,id=a,dump=off,mem-path=/f,,1,offset=8192,share=off,readonly=on,rom=off,x-use-canonical-path-for-ramblock-id=off"},
		{"-object memory-backend-ram,id=b,size=1M -object memory-backend-ram,id=a,size=1M,host-nodes=0,host-nodes=2,policy=bind", "a",
			"-object memory-backend-ram,id=b,size=1M -object memory-backend-file,id=a,size=1048576,host-nodes=0,host-nodes=2,policy=bind,mem-path=/f,,1,offset=8192,share=off,readonly=on,rom=off,x-use-canonical-path-for-ramblock-id=off"},
		{`-object {"qom-type":"memory-backend-memfd","id":"a","size":1,"share":true,"hugetlb":false,"host-nodes":[0,3],"policy":"bind"}`, "a",
			`-object {"host-nodes":[0,3],"id":"a","mem-path":"/f,1","offset":8192,"policy":"bind","qom-type":"memory-backend-file","readonly":true,"rom":"off","share":false,"size":1048576,"x-use-canonical-path-for-ramblock-id":false}`},
		{"-object memory-backend-ram,id=a,size=1M -machine pc-i440fx-3.1,memory-backend=a", "/objects/a",
			"-object memory-backend-file,id=a," + strings.ReplaceAll(mapped, "id=off", "id=on") + " -machine pc-i440fx-3.1,memory-backend=a"},
		{"-object memory-backend-ram,id=a,size=1M,reserve=off,prealloc=off -machine pc,memory-backend=a", "a",
			"-object memory-backend-file,id=a,size=1048576,reserve=off," + strings.TrimPrefix(mapped, "size=1048576,") + " -machine pc,memory-backend=a"},
	} {
		args := ParseArgs(strings.Fields(c.args))
		before := strings.Join(args.Words(), " ")
		if !args.Mappable(c.block) {
			t.Errorf("%s: %s is not mappable", c.args, c.block)
		}
		out, err := args.MapBlocks([]MappedBlock{{c.block, 1 << 20, "/f,1", 8192}})
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
		if got := strings.Join(out.Words(), " "); got != c.want {
			t.Errorf("%s becomes\n%s, want\n%s", c.args, got, c.want)
		}
		if after := strings.Join(args.Words(), " "); after != before {
			t.Errorf("%s was changed to %s", before, after)
		}
	}
}

func TestMappable(t *testing.T) {
	args := ParseArgs(strings.Fields("-object memory-backend-ram,id=a,size=1M -object iothread,id=i -machine q35,memory-backend=a"))
	for name, want := range map[string]bool{
		"a": true, "/objects/a": true, "i": false, "pc.ram": false, "vga.vram": false, "pc.bios": false, "/rom@etc/acpi/tables": false, "b": false, "": false,
	} {
		if got := args.Mappable(name); got != want {
			t.Errorf("%q is mappable: %v", name, got)
		}
	}
	plain := ParseArgs(nil)
	for name, want := range map[string]bool{"pc.ram": true, "microvm.ram": true, "0000:00:02.0/some.ram": false, "vga.vram": false} {
		if got := plain.Mappable(name); got != want {
			t.Errorf("without backends %q is mappable: %v", name, got)
		}
	}
}

func TestNotMapped(t *testing.T) {
	for args, word := range map[string]string{
		"-object memory-backend-memfd,id=a,size=1M,hugetlb=on":                    "huge pages",
		"-object memory-backend-file,id=a,size=1M,mem-path=/dev/hugepages/x":      "huge pages",
		`-object {"qom-type":"memory-backend-memfd","id":"a","hugetlb":true}`:     "huge pages",
		"-object memory-backend-ram,id=a,size=1M -netdev vhost-user,chardev=c":    "another process",
		"-object memory-backend-ram,id=a,size=1M -device vhost-user-fs-pci,tag=x": "another process",
	} {
		_, err := ParseArgs(strings.Fields(args)).MapBlocks([]MappedBlock{{"a", 1 << 20, "/f", 8192}})
		if err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), "--mode=eager") {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestCheckMemorySize(t *testing.T) {
	for _, c := range []struct {
		args, block string
		mib         int64
		want        string
	}{
		{"-m 512M", "pc.ram", 512, ""},
		{"-m 256M", "pc.ram", 512, "use -m 512M"},
		{"", "pc.ram", 2048, "use -m 2G"},
		{"", "pc.ram", 128, ""},
		{"-m 512M -machine pc,memory-backend=a", "a", 256, "use -m 256M"},
		{"-m 512M -machine pc,memory-backend=a", "/objects/a", 256, "use -m 256M"},
		{"-machine pc,memory-backend=a", "a", 256, ""},
		{"-m 512M", "dimm0", 256, ""},
		{"-m much", "pc.ram", 256, "-m much"},
	} {
		err := ParseArgs(strings.Fields(c.args)).CheckMemorySize(c.block, c.mib<<20)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s and %d MiB of %s: %v", c.args, c.mib, c.block, err)
		}
	}
	for n, want := range map[int64]string{1 << 30: "1G", 3 << 29: "1536M", 640 << 10: "640K"} {
		if got := FlagSize(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
}
