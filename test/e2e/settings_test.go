// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/save"
)

// adminsSettings are migration settings that an administrator may have left in a VM: capabilities that are on, and parameters as
// QMP takes them. Each of most would spoil a save by QEMU's own engine, or keep it from beginning.
var adminsSettings = []struct {
	name   string
	caps   []string
	params string
}{
	{"background-snapshot", []string{"background-snapshot"}, `{}`},
	{"pause-before-switchover", []string{"pause-before-switchover"}, `{}`},
	{"x-ignore-shared", []string{"x-ignore-shared"}, `{}`},
	{"dirty-bitmaps", []string{"dirty-bitmaps"}, `{}`},
	{"xbzrle", []string{"xbzrle"}, `{}`},
	{"postcopy", []string{"postcopy-ram", "release-ram", "return-path"}, `{}`},
	{"colo", []string{"x-colo"}, `{}`},
	{"validate-uuid", []string{"validate-uuid"}, `{}`},
	{"kept", []string{"events", "auto-converge"}, `{}`},
	{"numbers", nil, `{"max-bandwidth": 18446744073709551615, "avail-switchover-bandwidth": 9007199254740993, "multifd-channels": 7}`},
	{"compression", []string{"multifd", "mapped-ram"}, `{"multifd-compression": "zlib"}`},
	{"TLS", nil, `{"tls-creds": "none-of-that-name", "tls-hostname": "host"}`},
	{"mode", nil, `{"mode": "cpr-reboot", "direct-io": true, "zero-page-detection": "none"}`},
}

// TestAdminsMigrationSettings saves by QEMU's own engine with the administrator's migration settings in the VM: the image is
// whole, the VM runs on, and every setting is afterwards as it was, to the digit.
func TestAdminsMigrationSettings(t *testing.T) {
	b := startBare(t, "-machine", "pc,memory-backend=ram", "-m", "32M", "-object", "memory-backend-memfd,id=ram,size=32M,share=on")
	for _, c := range adminsSettings {
		t.Run(c.name, func(t *testing.T) {
			b.set(t, c.params, c.caps, true)
			defer b.set(t, `{"multifd-compression": "none", "tls-creds": "", "tls-hostname": "", "mode": "normal"}`, c.caps, false)
			before := b.settings(t)
			for _, flags := range [][]string{{"--direct-io=off"}, {"--direct-io=on", "--channels=2"}, {"--live"}} {
				img := directory(t) + "/image"
				r := must[save.Result](t, append([]string{"save", "--qmp", b.socket, "--engine=qemu", img}, flags...)...)
				if r.PagesStored == 0 || b.status(t) != "running" {
					t.Errorf("%d pages stored, the VM is %s", r.PagesStored, b.status(t))
				}
				if after := b.settings(t); after != before {
					t.Errorf("%v: the settings are\n%s, they were\n%s", flags, after, before)
				}
				must[image.VerifyResult](t, "verify", img)
			}
		})
	}
	t.Run("ramjet is killed", func(t *testing.T) {
		b.set(t, `{"max-bandwidth": 18446744073709551615}`, []string{"xbzrle"}, true)
		before := b.settings(t)
		c := exec.Command(program, "save", "--qmp", b.socket, "--engine=qemu", "--max-bandwidth=50K", directory(t)+"/image")
		do(t, c.Start())
		for b.settings(t) == before {
			time.Sleep(time.Millisecond)
		}
		do(t, c.Process.Kill())
		c.Wait()
		for deadline := time.Now().Add(20 * time.Second); b.settings(t) != before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the settings are\n%s, they were\n%s", b.settings(t), before)
			}
		}
		if s := b.status(t); s != "running" {
			t.Errorf("the VM is %s", s)
		}
	})
}

// set sets parameters, given as JSON, and then capabilities, or clears those and sets the parameters then. What this QEMU does not
// have skips the test.
func (b *bare) set(t *testing.T, params string, caps []string, on bool) {
	t.Helper()
	var list []any
	for _, c := range caps {
		list = append(list, map[string]any{"capability": c, "state": on})
	}
	steps := []func() error{
		func() error {
			return b.monitor.Execute(t.Context(), "migrate-set-parameters", json.RawMessage(params), nil)
		},
		func() error {
			if len(list) == 0 {
				return nil
			}
			return b.monitor.Execute(t.Context(), "migrate-set-capabilities", map[string]any{"capabilities": list}, nil)
		},
	}
	if !on {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		var refusal *qmp.Error
		if err := step(); errors.As(err, &refusal) && on {
			t.Skipf("this QEMU has no such setting: %v", err)
		} else if err != nil && on {
			t.Fatal(err)
		}
	}
}
