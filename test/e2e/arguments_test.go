// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// freePort is a TCP port of this host that nobody listens on, and the nine above it as well.
func freePort(t *testing.T) int {
	t.Helper()
	for port := 20000; port < 32000; port += 10 {
		free := true
		for i := range 10 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+i))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return port
		}
	}
	t.Fatal("no ports are free")
	return 0
}

// TestArguments restores and clones a VM, whose firmware runs, by its recorded command line with changes.
func TestArguments(t *testing.T) {
	vm.Need(t)
	port := freePort(t)
	k := kind{runs: true, args: fmt.Sprintf("-machine q35 -nic user,hostfwd=tcp:127.0.0.1:%d-:22 -serial file:DIR/serial.log -object secret,id=s,data=hunter2", port)}
	v := &anyVM{dir: directory(t)}
	v.qmp, v.args = filepath.Join(v.dir, "qmp"), k.arguments(v.dir)
	v.start(t).Close()
	if v.elsewhere {
		t.Skip("QEMU runs in another root directory, so its recorded command line is not one of this machine")
	}
	image := filepath.Join(directory(t), "image")
	must[save.Result](t, "save", "--qmp", v.qmp, "--then", "quit", image)
	secret := []string{"--set", "object.s.data=hunter2"}
	waitForPort(t, port)

	t.Run("secret", func(t *testing.T) {
		refused(t, 1, []string{"-object secret,id=s,data=BLANKED-BY-RAMJET", "--set"}, "restore", "--detach", image)
	})
	t.Run("pinned", func(t *testing.T) {
		r := must[struct{ Command []string }](t, append([]string{"restore", "--print-command", image}, secret...)...)
		i := slices.Index(r.Command, "-machine")
		if i < 0 || !strings.HasPrefix(r.Command[i+1], "pc-q35-") {
			t.Errorf("the machine type is not pinned: %q", r.Command)
		}
		refused(t, 1, []string{"use -machine pc-q35-"}, append([]string{"restore", "--set", "machine=pc", "--detach", image}, secret...)...)
	})
	t.Run("wrapped", func(t *testing.T) {
		socket := filepath.Join(directory(t), "qmp")
		args := append([]string{"restore", "--detach", "--qmp", socket, image, "--", "env", "-u", "NOBODY", "nice", "-n", "1", vm.Program()}, v.args...)
		if o := ramjet(t, args...); o.status != 0 {
			t.Fatalf("ramjet %s: %s", strings.Join(args, " "), o.err)
		}
		defer (&anyVM{qmp: socket}).quit(t)
		again := filepath.Join(directory(t), "image")
		must[save.Result](t, "save", "--qmp", socket, again)
		if o := ramjet(t, "inspect", again); strings.Contains(o.out, "NOBODY") || !strings.Contains(o.out, "hostfwd") {
			t.Errorf("recorded is %s", o.out)
		}
	})
	waitForPort(t, port)
	t.Run("clones", func(t *testing.T) {
		dir := directory(t)
		clone := append([]string{"clone", "-n", "2", "--detach", "--paused", "--qmp", dir, image}, secret...)
		o := refused(t, 1, []string{fmt.Sprintf("port %d", port), "--set 'nic=user,hostfwd=tcp:127.0.0.1:"}, clone...)
		_, example, _ := strings.Cut(o.err, "--set '")
		example, _, _ = strings.Cut(example, "'")
		clone = append(clone, "--set", example)
		o = refused(t, 1, []string{"serial.log", "--set 'serial=file:" + v.dir + "/{n}-serial.log'"}, clone...)
		r := must[restore.CloneResult](t, append(clone, "--set", "serial=file:"+dir+"/{n}.log")...)
		for _, c := range r.VMs {
			defer (&anyVM{qmp: c.QMP}).quit(t)
			for host := range forwarded(t, c.QMP) {
				if want := fmt.Sprint(port/10*10 + c.N); host != want {
					t.Errorf("clone %d listens on %s, not on %s", c.N, host, want)
				}
			}
		}
	})
}

// waitForPort waits until a QEMU that has ended has left its port.
func waitForPort(t *testing.T, port int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// forwarded are the host's ports that a VM's user network listens on.
func forwarded(t *testing.T, path string) map[string]bool {
	t.Helper()
	m, err := qmp.Dial(t.Context(), path)
	do(t, err)
	defer m.Close()
	var text string
	do(t, m.Execute(t.Context(), "human-monitor-command", map[string]string{"command-line": "info usernet"}, &text))
	ports := map[string]bool{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 4 && f[0] == "TCP[HOST_FORWARD]" {
			ports[f[3]] = true
		}
	}
	if len(ports) == 0 {
		t.Errorf("no port is forwarded: %s", text)
	}
	return ports
}
