// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

// TestParseArgs takes command lines apart and puts them together again.
func TestParseArgs(t *testing.T) {
	words := []string{"disk.img", "-m", "1G", "--nodefaults", "-S", "-device", "virtio-rng-pci", "-smp", "2", "-append", "a -b c", "-snapshot", "other.img", "-nonsense", "x", "-last"}
	args := ParseArgs(words)
	want := []Arg{
		{"", "disk.img", true}, {"m", "1G", true}, {"nodefaults", "", false}, {"S", "", false}, {"device", "virtio-rng-pci", true},
		{"smp", "2", true}, {"append", "a -b c", true}, {"snapshot", "", false}, {"", "other.img", true}, {"nonsense", "x", true}, {"last", "", false},
	}
	if !slices.Equal(args, want) {
		t.Errorf("%v", args)
	}
	words[3] = "-nodefaults"
	if got := args.Words(); !slices.Equal(got, words) {
		t.Errorf("%q", got)
	}
	if got := args.Without("m", "append", "").Words(); slices.Contains(got, "1G") || slices.Contains(got, "a -b c") || !slices.Contains(got, "disk.img") {
		t.Errorf("%q", got)
	}
	if got := args.With("m", "2G"); got[len(got)-1] != (Arg{"m", "2G", true}) || len(got) != len(args)+1 {
		t.Errorf("%v", got)
	}
}

// stockQEMU is the QEMU that the tests run on.
func stockQEMU() string {
	if program := os.Getenv("RAMJET_QEMU"); program != "" {
		return program
	}
	return "qemu-system-x86_64"
}

// TestWithoutValue compares the options that take no value with what a QEMU says of itself.
func TestWithoutValue(t *testing.T) {
	out, err := exec.Command(stockQEMU(), "-help").Output()
	if err != nil {
		t.Skipf("no QEMU here: %v", err)
	}
	// An option's argument follows after one blank, the explanation after more or on the next line.
	line := regexp.MustCompile(`(?m)^-([a-zA-Z][\w-]*)(?: or -[\w-]+)?( {2,}|$|\t| [^ ])`)
	seen := 0
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		name, none := m[1], !strings.HasPrefix(m[2], " ") || strings.HasPrefix(m[2], "  ")
		switch name {
		case "dtb", "h", "M":
			continue // printed in another form
		}
		seen++
		if none != withoutValue[name] {
			t.Errorf("-%s takes no value: QEMU says %v, we say %v", name, none, withoutValue[name])
		}
	}
	if seen < 60 {
		t.Errorf("only %d options were found", seen)
	}
}

func TestProperties(t *testing.T) {
	for _, c := range []struct {
		value, implied, key, want, again string
	}{
		{"memory-backend-ram,id=a,size=1G", "qom-type", "qom-type", "memory-backend-ram", "memory-backend-ram,id=a,size=1G"},
		{"qom-type=memory-backend-ram,id=a", "qom-type", "id", "a", "memory-backend-ram,id=a"},
		{"socket,path=/a,,b,server=on", "backend", "path", "/a,b", "socket,path=/a,,b,server=on"},
		{"socket,id=x,server,nowait", "backend", "server", "on", "socket,id=x,server=on,nowait=on"},
		{"a,k=1,k=2", "", "k", "2", "a,k=1,k=2"},
		{"a,host-nodes=0,host-nodes=2", "", "host-nodes", "2", "a,host-nodes=0,host-nodes=2"},
		{"k=a=b", "", "k", "a=b", "k=a=b"},
		{`{"qom-type":"memory-backend-ram","id":"a","size":17179869184,"host-nodes":[0,1],"share":true}`, "qom-type", "size", "17179869184", `{"host-nodes":[0,1],"id":"a","qom-type":"memory-backend-ram","share":true,"size":17179869184}`},
		{`{"share":true}`, "", "share", "on", `{"share":true}`},
		{`{"size":9007199254740993}`, "", "size", "9007199254740993", `{"size":9007199254740993}`},
		{`{"n":[1]}`, "", "n", "", `{"n":[1]}`},
		{`{broken`, "k", "k", "{broken", "{broken"},
	} {
		p := ParseProperties(c.value, c.implied)
		if got := p.Get(c.key); got != c.want {
			t.Errorf("%s: %s is %q", c.value, c.key, got)
		}
		// Without a name for the first part it stays what it was.
		if got := strings.TrimPrefix(p.String(c.implied), "="); got != c.again {
			t.Errorf("%s becomes %s", c.value, got)
		}
	}
}

func TestSetProperties(t *testing.T) {
	for value, want := range map[string]string{
		"t,a=1,b=2,a=3,c=4": "t,a=x,,y,c=4,n=7,on=on",
		"t":                 "t,a=x,,y,n=7,on=on",
		`{"a":1,"b":true}`:  `{"a":"x,y","n":7,"on":true}`,
		`{"a":{"b":[1,2]}}`: `{"a":"x,y","n":7,"on":true}`,
	} {
		p := ParseProperties(value, "type")
		p.Set("a", "x,y")
		p.Set("n", int64(7))
		p.Set("on", true)
		p.Delete("b", "nothing")
		if got := p.String("type"); got != want {
			t.Errorf("%s becomes %s, want %s", value, got, want)
		}
	}
}

func TestMonitors(t *testing.T) {
	for _, c := range []struct{ args, path, rest string }{
		{"-m 1G -qmp unix:/a,server=on,wait=off -smp 2", "/a", "-m 1G -smp 2"},
		{"-qmp unix:/a,server,nowait", "/a", ""},
		{"-qmp-pretty unix:b,server=on", "/dir/b", ""},
		{"-qmp unix:/a,,b,server=on", "/a,b", ""},
		{"-qmp tcp:localhost:1,server=on -qmp unix:/a,server=on", "/a", ""},
		{"-qmp unix:/client -monitor unix:/hmp,server=on", "", "-monitor unix:/hmp,server=on"},
		{"-chardev socket,id=c,path=/a,server=on,wait=off -mon chardev=c,mode=control -mon chardev=h", "/a", "-mon chardev=h"},
		{"-mon c,mode=control -chardev socket,id=c,path=/a,server=on", "/a", ""},
		{"-chardev socket,id=c,path=/a,server=on -mon c", "", "-chardev socket,id=c,path=/a,server=on -mon c"},
		{"-chardev socket,id=c,fd=3 -mon chardev=c,mode=control", "", ""},
		{"-mon chardev=missing,mode=control -m 1G", "", "-m 1G"},
		{"-qmp stdio", "", ""},
	} {
		args := ParseArgs(strings.Fields(c.args))
		if got := args.Monitor("/dir"); got != c.path {
			t.Errorf("%s: the monitor is at %q", c.args, got)
		}
		if got := strings.Join(args.WithoutQMP().Words(), " "); got != c.rest {
			t.Errorf("%s: without it %s", c.args, got)
		}
	}
}

func TestMemorySize(t *testing.T) {
	for _, c := range []struct {
		args  string
		mib   int64
		given bool
	}{
		{"", 128, false}, {"-m 512", 512, true}, {"-m 512M", 512, true}, {"-m 1.5G", 1536, true}, {"-m size=2G,slots=2,maxmem=8G", 2048, true},
		{"-m 1G -m slots=2,maxmem=4G", 1024, true}, {"-m 1G -m 2G", 2048, true}, {"-m 4g", 4096, true}, {"-m 1T", 1 << 20, true},
	} {
		size, given, err := ParseArgs(strings.Fields(c.args)).MemorySize()
		if err != nil || size != c.mib<<20 || given != c.given {
			t.Errorf("%s: %d MiB, %v, %v", c.args, size>>20, given, err)
		}
	}
	for _, bad := range []string{"much", "-5", "0", "2000000000", "1125899906842624", "99999999999999999999", "9223372036854775807", "8E"} {
		if size, _, err := (Args{{"m", bad, true}}).MemorySize(); err == nil {
			t.Errorf("-m %s is %d", bad, size)
		}
	}
}

// FuzzArgs: what a process was started with may be anything.
func FuzzArgs(f *testing.F) {
	f.Add("-m\x00size=1G,slots=2\x00-object\x00memory-backend-ram,id=a,size=1G\x00-machine\x00q35,memory-backend=a")
	f.Add("-object\x00memory-backend-ram,id=a,x,,id=") // a comma is doubled in values, not in names
	f.Add("-object\x00{\"qom-type\":\"memory-backend-file\",\"id\":\"a\",\"size\":1}\x00-S\x00disk\x00-qmp\x00unix:/x,,,server")
	f.Fuzz(func(t *testing.T, line string) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		words := strings.Split(line, "\x00")
		args := ParseArgs(words)
		if len(args) > len(words) {
			t.Errorf("%q has %d options", words, len(args))
		}
		again := ParseArgs(args.Words())
		if !strings.Contains(line, "---") && !slices.Equal(again.Words(), args.Words()) {
			t.Errorf("%q, then %q", args.Words(), again.Words())
		}
		args.Monitor("/")
		args.MemorySize()
		mapped, err := args.MapBlocks([]MappedBlock{{"a", 4096, "/f", 4096}})
		if err == nil && args.Mappable("a") && !mapped.Mappable("a") {
			t.Errorf("%q becomes %q, which has no backend a", args.Words(), mapped.Words())
		}
	})
}
