// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// bare is a QEMU without an operating system in it: enough where only what QEMU does counts.
type bare struct {
	dir, socket string // the socket of the monitor for ramjet
	monitor     *qmp.Client
}

// startBare starts one that ends with the test.
func startBare(t *testing.T, args ...string) *bare {
	t.Helper()
	vm.Need(t)
	b := &bare{dir: directory(t)}
	b.socket = filepath.Join(b.dir, "qmp")
	own := filepath.Join(b.dir, "own")
	process(t, own, exec.Command(vm.Program(), append([]string{"-accel", vm.Accelerator(), "-nodefaults", "-display", "none",
		"-qmp", "unix:" + b.socket + ",server=on,wait=off",
		"-chardev", "socket,id=own,path=" + own + ",server=on,wait=off", "-mon", "chardev=own,mode=control"}, args...)...))
	var err error
	b.monitor, err = qmp.Dial(t.Context(), own)
	do(t, err)
	t.Cleanup(func() { b.monitor.Close() })
	return b
}

// run runs a command on the test's own monitor, which must succeed.
func (b *bare) run(t *testing.T, command string, args, result any) {
	t.Helper()
	if err := b.monitor.Execute(t.Context(), command, args, result); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
}

func (b *bare) status(t *testing.T) string {
	t.Helper()
	var s struct{ Status string }
	b.run(t, "query-status", nil, &s)
	return s.Status
}

// settings are the VM's migration capabilities and parameters, to the byte.
func (b *bare) settings(t *testing.T) string {
	t.Helper()
	var caps, params json.RawMessage
	b.run(t, "query-migrate-capabilities", nil, &caps)
	b.run(t, "query-migrate-parameters", nil, &params)
	return string(caps) + string(params)
}
