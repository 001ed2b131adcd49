// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"strings"
	"testing"
)

func TestPinMachine(t *testing.T) {
	for _, c := range []struct{ args, machine, want string }{
		{"-machine q35,accel=kvm -m 1G", "pc-q35-10.0", "-machine pc-q35-10.0,accel=kvm -m 1G"},
		{"-M pc", "pc-i440fx-9.2", "-M pc-i440fx-9.2"},
		{"-m 1G", "pc-i440fx-10.0", "-m 1G -machine type=pc-i440fx-10.0"},
		{"-machine memory-backend=a", "pc-q35-10.0", "-machine memory-backend=a -machine type=pc-q35-10.0"},
		{"-machine pc -machine type=q35 -machine usb=on", "pc-q35-8.0", "-machine pc -machine pc-q35-8.0 -machine usb=on"},
		{`-machine {"type":"q35"}`, "pc-q35-8.0", `-machine {"type":"pc-q35-8.0"}`},
		{"-machine ubuntu-q35", "pc-q35-noble", "-machine pc-q35-noble"},
		{"-machine microvm", "microvm", "-machine microvm"},
		{"-machine virt", "virt-10.0", "-machine virt"},
		{"-machine pc-q35-10.0", "pc-q35-10.0", "-machine pc-q35-10.0"},
		{"-machine q35", "", "-machine q35"},
		{"-machine pc-q35-9.0", "pc-q35-10.0", "use -machine pc-q35-10.0"},
		{"-machine pc", "pc-q35-10.0", "use -machine pc-q35-10.0"},
		{"-machine q35", "microvm", "use -machine microvm"},
		{"-machine isapc", "pc-i440fx-10.0", "use -machine pc-i440fx-10.0"},
	} {
		args, err := ParseArgs(strings.Fields(c.args)).PinMachine(c.machine)
		if got := strings.Join(args.Words(), " "); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %s, %v, want %s", c.args, c.machine, got, err, c.want)
		}
	}
}
