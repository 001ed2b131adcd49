// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/test/allocs"
)

// listing is what QEMU 10.0.2 printed of a q35 with a VGA and two NUMA nodes.
const listing = "              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n" +
	"                  pc.ram    4 KiB  0x0000000000000000 0x0000000020000000 0x0000000020000000 0x00007f3c2be00000  rw\r\n" +
	"   0000:00:01.0/vga.vram    4 KiB  0x0000000020080000 0x0000000001000000 0x0000000001000000 0x00007f3c2a600000  rw\r\n" +
	"    /rom@etc/acpi/tables    4 KiB  0x00000000210e0000 0x0000000000020000 0x0000000000200000 0x00007f3c2a200000  ro\r\n" +
	"                 pc.bios    4 KiB  0x0000000020000000 0x0000000000040000 0x0000000000040000 0x00007f3c4c200000  ro\r\n" +
	"                            4 KiB  0x0000000020000000 0x0000000000040000 0x0000000000040000 0x00007f3c4c300000  ro\r\n" +
	"         with some space    2 MiB  0x0000000020040000 0x0000000000200000 0x0000000000200000 0x00007f3c4c400000  rw\r\n"

func TestParseRAMBlocks(t *testing.T) {
	want := []RAMBlock{
		{"pc.ram", 0x20000000, 0x7f3c2be00000}, {"0000:00:01.0/vga.vram", 0x1000000, 0x7f3c2a600000}, {"/rom@etc/acpi/tables", 0x20000, 0x7f3c2a200000},
		{"pc.bios", 0x40000, 0x7f3c4c200000}, {"with some space", 0x200000, 0x7f3c4c400000},
	}
	got, err := parseRAMBlocks(listing)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := parseRAMBlocks(strings.ReplaceAll(listing, "\r", "")); err != nil || !slices.Equal(got, want) {
		t.Errorf("without carriage returns: %v, %v", got, err)
	}
}

func TestBadRAMBlocks(t *testing.T) {
	header, _, _ := strings.Cut(listing, "\n")
	line := func(name, used, total, addr string) string {
		return fmt.Sprintf("%s\n%s    4 KiB  0x0000000000000000 %s %s %s  rw\n", header, name, used, total, addr)
	}
	if _, err := parseRAMBlocks(line("a", "0x1000", "0x2000", "0x1000")); err != nil {
		t.Errorf("the good line: %v", err)
	}
	if _, err := parseRAMBlocks("Block Name    PSize              Offset               Used              Total\n"); !errors.Is(err, errNoAddresses) {
		t.Errorf("an old QEMU: %v", err)
	}
	for _, bad := range []string{
		"", "unknown command: 'info ramblock'\r\n",
		line("a", "0x1001", "0x2000", "0x1000"), line("a", "0x3000", "0x2000", "0x1000"), line("a", "0x1000", "0x2000", "0x1001"),
		line("a", "1000", "0x2000", "0x1000"), line("a", "0xffffffffffffffff", "0xffffffffffffffff", "0x1000"),
		line("a", "0x-1000", "0x2000", "0x1000"), header + "\n a 4 KiB 0x0\n",
		line("a", "0x1000", "0x2000", "0x1000") + "a    4 KiB  0x0000000000000000 0x1000 0x2000 0x5000  rw\n",
		header + "\n" + strings.Repeat("x", 200) + "\n",
	} {
		if b, err := parseRAMBlocks(bad); err == nil {
			t.Errorf("%q is %v", bad, b)
		}
	}
	var many strings.Builder
	many.WriteString(header + "\n")
	for i := range cmdline.MaxBlocks + 1 {
		fmt.Fprintf(&many, "b%d    4 KiB  0x0 0x1000 0x1000 0x1000  rw\n", i)
	}
	if _, err := parseRAMBlocks(many.String()); err == nil {
		t.Error("too many blocks were taken")
	}
}

func FuzzParseRAMBlocks(f *testing.F) {
	f.Add(listing)
	f.Add(strings.ToUpper(listing))
	header, _, _ := strings.Cut(listing, "\n")
	f.Fuzz(func(t *testing.T, text string) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		for _, s := range []string{text, header + "\n" + text} {
			blocks, err := parseRAMBlocks(s)
			if err != nil {
				continue
			}
			for _, b := range blocks {
				if b.Name == "" || b.Used < 0 || b.Used > cmdline.MaxBlockSize || b.Used%4096 != 0 || b.Addr%4096 != 0 || strings.ContainsAny(b.Name, "\n") {
					t.Errorf("%q gives %+v", s, b)
				}
			}
		}
	})
}
