// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// serve puts `ramjet serve --vm` in front of a monitor and connects to it.
func serve(t *testing.T, monitor string) *qmp.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "front")
	c := exec.Command(program, "serve", "--vm", monitor, "--qmp", socket)
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		if err := c.Wait(); err != nil || said.Len() > 0 {
			t.Errorf("serve: %v, says %s", err, said.String())
		}
	})
	for range 200 {
		time.Sleep(20 * time.Millisecond)
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	client, err := qmp.Dial(t.Context(), socket)
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// ask runs a command that has to succeed.
func ask(t *testing.T, c *qmp.Client, command, args string, files ...*os.File) json.RawMessage {
	t.Helper()
	var in any
	if args != "" {
		in = json.RawMessage(args)
	}
	var out json.RawMessage
	if err := c.Execute(t.Context(), command, in, &out, files...); err != nil {
		t.Fatalf("%s %s: %v", command, args, err)
	}
	return out
}

// pass puts two descriptors of the image, one with O_DIRECT, into set 1.
func pass(t *testing.T, c *qmp.Client, image string, flags int) {
	t.Helper()
	ask(t, c, "migrate-set-capabilities", `{"capabilities":[{"capability":"mapped-ram","state":true},{"capability":"multifd","state":true}]}`)
	ask(t, c, "migrate-set-parameters", `{"direct-io":true,"max-bandwidth":0,"multifd-channels":4}`)
	for _, direct := range []int{0, syscall.O_DIRECT} {
		f, err := os.OpenFile(image, flags|direct, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c, "add-fd", `{"fdset-id":1}`, f)
		f.Close()
	}
}

// moved waits for the end of a migration and returns the answer of query-migrate.
func moved(t *testing.T, c *qmp.Client) (m struct {
	Status   string
	Error    string `json:"error-desc"`
	Downtime int
	RAM      struct{ Normal, Duplicate int64 }
}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for m.Status != "completed" {
		if err := c.Execute(ctx, "query-migrate", nil, &m); err != nil || m.Status == "failed" {
			t.Fatalf("%+v, %v", m, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return m
}

// TestServeVM has a client that knows only QEMU's commands save a guest that is at work, and load it into another QEMU,
// through a monitor in front of each.
func TestServeVM(t *testing.T) {
	for _, b := range []vm.Backend{vm.Anonymous, vm.Memfd} {
		t.Run(b.String(), func(t *testing.T) {
			v := vm.Run(t, vm.Config{Backend: b, Fill: 100})
			image := filepath.Join(t.TempDir(), "image")
			c := serve(t, v.QMP)
			pass(t, c, image, os.O_CREATE|os.O_WRONLY)
			before := whole(t, v)

			ask(t, c, "migrate", `{"uri":"file:/dev/fdset/1"}`) // at work
			m := moved(t, c)
			t.Logf("live: stood still for %d ms, %d pages", m.Downtime, m.RAM.Normal)
			ask(t, c, "cont", "")
			if after := whole(t, v); after.Sum != before.Sum {
				t.Errorf("the save changed the guest's memory: %v, before %v", after, before)
			}
			counted := count(t, v)
			ask(t, c, "stop", "")
			ask(t, c, "migrate", `{"uri":"file:/dev/fdset/1"}`) // again, over the first
			m = moved(t, c)
			t.Logf("stopped: %d ms, %d pages", m.Downtime, m.RAM.Normal)
			ask(t, c, "remove-fd", `{"fdset-id":1}`)
			if sets := ask(t, c, "query-fdsets", ""); string(sets) != "[]" {
				t.Errorf("sets: %s", sets)
			}
			ask(t, c, "quit", "")

			loaded := incoming(t, v, image)
			if got := whole(t, loaded); got.Sum != before.Sum {
				t.Errorf("memory is %v, was %v", got, before)
			}
			if n := count(t, loaded); n < counted {
				t.Errorf("the counter is %d, was %d", n, counted)
			}
			loaded.Kill()
			for _, command := range []string{"seal", "verify"} {
				if o := ramjet(t, command, image); o.status != 0 {
					t.Errorf("ramjet %s: %s", command, o.err)
				}
			}
		})
	}
}

// incoming loads an image into a QEMU started as v was, through a monitor in front of it.
func incoming(t *testing.T, v *vm.VM, image string) *vm.VM {
	t.Helper()
	dir := t.TempDir()
	q := exec.Command(v.Program, append(v.ArgsIn(dir), "-incoming", "defer")...)
	q.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := q.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		q.Process.Kill()
		q.Wait()
	})
	for range 200 {
		if _, err := os.Stat(vm.QMPIn(dir)); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	c := serve(t, vm.QMPIn(dir))
	pass(t, c, image, os.O_RDONLY)
	began := time.Now()
	ask(t, c, "migrate-incoming", `{"uri":"file:/dev/fdset/1"}`)
	moved(t, c)
	t.Logf("loaded in %v", time.Since(began))
	ask(t, c, "cont", "")
	if s := string(ask(t, c, "query-status", "")); s != `{"running":true,"status":"running"}` && s != `{"status": "running", "running": true}` {
		t.Errorf("status: %s", s)
	}
	loaded, err := vm.Attach(t.Context(), vm.SerialIn(dir), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loaded.Close() })
	return loaded
}
