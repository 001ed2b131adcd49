// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"context"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMainMemory(t *testing.T) {
	blocks := func(names ...string) (list []SizedBlock) {
		for _, n := range names {
			list = append(list, SizedBlock{n, 1 << 30})
		}
		return list
	}
	for _, c := range []struct {
		args   string
		blocks []SizedBlock
		want   string // "" if it is not to be found
	}{
		{"", blocks("pc.ram", "pc.bios", "0000:00:02.0/vga.vram"), "pc.ram"},
		{"-m 1G", blocks("/rom@etc/acpi/tables", "m0", "pc.bios", "pc.rom"), "m0"},
		{"", blocks("m0", "m1", "pc.bios"), ""},
		{"", blocks("pc.bios"), ""},
		{"-machine q35,memory-backend=m1 -m 1G", blocks("m0", "m1"), "m1"},
		{"-machine q35 -machine memory-backend=gone", blocks("m0", "m1"), ""},
		{"-numa node,nodeid=1,memdev=m0 -numa node,nodeid=0,memdev=m1", blocks("m0", "m1"), "m1 m0"},
		{"-numa node,memdev=m0 -numa node,memdev=m1 -numa cpu,node-id=0", blocks("m0", "m1"), "m0 m1"},
	} {
		got, err := ParseArgs(strings.Fields(c.args)).MainMemory(c.blocks)
		var names []string
		for _, b := range got {
			names = append(names, b.Name)
		}
		if strings.Join(names, " ") != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q, %v: %v, %v, want %q", c.args, c.blocks, got, err, c.want)
		}
	}
}

func TestPhysicalLayoutRefuses(t *testing.T) {
	main := []SizedBlock{{"pc.ram", 1 << 30}}
	for machine, args := range map[string]string{"virt-10.0": "", "pc-q35-10.0": "-machine q35,max-ram-below-4g=x"} {
		if r, err := PhysicalLayout(machine, ParseArgs(strings.Fields(args)), main); err == nil {
			t.Errorf("%s %s: %v", machine, args, r)
		}
	}
}

// TestPhysicalLayout compares with what QEMU itself says of its memory.
func TestPhysicalLayout(t *testing.T) {
	program, err := exec.LookPath(stockQEMU())
	if err != nil {
		t.Skip("there is no QEMU here")
	}
	const m, g = 1 << 20, 1 << 30
	two := "-object memory-backend-ram,id=m0,size=2560M -object memory-backend-ram,id=m1,size=2560M -m 5G -numa node,memdev=m0 -numa node,memdev=m1"
	for _, c := range []struct {
		machine, full, args string
		main                []SizedBlock
	}{
		{"pc", "pc-i440fx-10.0", "-m 512M", []SizedBlock{{"pc.ram", 512 * m}}},
		{"pc", "pc-i440fx-10.0", "-m 3583M", []SizedBlock{{"pc.ram", 3583 * m}}},
		{"pc", "pc-i440fx-10.0", "-m 3584M", []SizedBlock{{"pc.ram", 3584 * m}}},
		{"pc", "pc-i440fx-10.0", "-m 5G", []SizedBlock{{"pc.ram", 5 * g}}},
		{"pc,max-ram-below-4g=2G", "pc-i440fx-10.0", "-m 4G", []SizedBlock{{"pc.ram", 4 * g}}},
		{"pc", "pc-i440fx-10.0", two, []SizedBlock{{"m0", 2560 * m}, {"m1", 2560 * m}}},
		{"q35", "pc-q35-10.0", "-m 2815M", []SizedBlock{{"pc.ram", 2815 * m}}},
		{"q35", "pc-q35-10.0", "-m 2816M", []SizedBlock{{"pc.ram", 2816 * m}}},
		{"q35", "pc-q35-10.0", "-m 6G", []SizedBlock{{"pc.ram", 6 * g}}},
		{"q35,max-ram-below-4g=1G", "pc-q35-10.0", "-m 6G", []SizedBlock{{"pc.ram", 6 * g}}},
		{"q35", "pc-q35-10.0", two, []SizedBlock{{"m0", 2560 * m}, {"m1", 2560 * m}}},
		{"microvm", "microvm", "-m 4G", []SizedBlock{{"microvm.ram", 4 * g}}},
	} {
		words := append([]string{"-machine", c.machine}, strings.Fields(c.args)...)
		got, err := PhysicalLayout(c.full, ParseArgs(words), c.main)
		if err != nil {
			t.Fatal(err)
		}
		view := flatView(t, program, words)
		var sum, want int64
		for _, b := range c.main {
			want += b.Length
		}
		for _, r := range got {
			sum += r.Length
			// The holes of VGA and firmware are in the first MiB; what is looked at lies elsewhere.
			for _, off := range []int64{1 << 20, r.Length / 2, r.Length - 4096} {
				if !slices.ContainsFunc(view, func(v PhysicalRange) bool {
					return v.Block == r.Block && v.Address-v.Offset == r.Address-r.Offset && v.Address <= r.Address+off && r.Address+off < v.Address+v.Length
				}) {
					t.Errorf("%s: %+v is not so at %#x:\n%+v", words, r, r.Address+off, view)
				}
			}
		}
		if sum != want {
			t.Errorf("%s: %d of %d bytes have a place", words, sum, want)
		}
	}
}

var flatLine = regexp.MustCompile(`^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio 0, ram\): (\S+)(?: @([0-9a-f]{16}))?`)

// flatView asks a QEMU that does not run for its memory.
func flatView(t *testing.T, program string, args []string) (view []PhysicalRange) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, program, append(args, "-S", "-nodefaults", "-display", "none", "-monitor", "stdio")...)
	c.Stdin = strings.NewReader("info mtree -f\nquit\n")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(strings.ReplaceAll(string(out), "\r", "")) {
		f := flatLine.FindStringSubmatch(line)
		if f == nil {
			continue
		}
		var v [3]int64
		for i, k := range []int{1, 2, 4} {
			if f[k] != "" {
				n, err := strconv.ParseUint(f[k], 16, 64)
				if err != nil {
					t.Fatal(err)
				}
				v[i] = int64(n)
			}
		}
		view = append(view, PhysicalRange{f[3], v[2], v[1] - v[0] + 1, v[0]})
	}
	if len(view) == 0 {
		t.Fatalf("no memory in %s", out)
	}
	return view
}
