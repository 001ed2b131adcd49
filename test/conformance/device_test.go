// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// TestBlockDevices: an image on a block device is one for QEMU too, is zero where it stores nothing, and is none while it is being
// written and when that fails.
func TestBlockDevices(t *testing.T) {
	needDevices(t)
	needQEMU(t)
	for name, at := range map[string]int64{direct: 0, mapped: 8192, plain: 0} {
		t.Run(map[string]string{direct: "direct", mapped: "mapped-ram at an offset", plain: "plain"}[name], func(t *testing.T) {
			both(t, scene{script: "device disk 33554432\nfill 3\n" + name}, func(t *testing.T, p *player) {
				if p.kind == front && name == plain {
					t.Skip("QEMU writes it, and cannot")
				}
				uri := fmt.Sprintf(`{"uri":"file:/dev/fdset/1,offset=%d"}`, at)
				p.must(t, "open a w disk\nopen b w+direct disk\n"+addAll("a b")+"migrate "+uri)
				p.expect(t, "wait", "completed")
				p.expect(t, "flags a", "unchanged")
				p.expect(t, "flags b", "unchanged")
				if name != plain {
					zeroBetween(t, p)
				}
				p.must(t, "cont")
				loadsThere(t, p, name, uri)
			})
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		both(t, scene{script: "device disk 33554432\nfill 3\n" + mapped}, func(t *testing.T, p *player) {
			p.must(t, "open a w disk\n"+addAll("a")+"migrate {\"uri\":\"file:/dev/fdset/1\"}")
			p.expect(t, "wait", "completed")
			p.must(t, "cont\nmigrate-set-parameters {\"max-bandwidth\":4096}\nmigrate {\"uri\":\"file:/dev/fdset/1\"}\nuntil active")
			p.expect(t, "head disk 0", "nothing")
			p.must(t, "migrate_cancel")
			p.expect(t, "wait", "cancelled")
			p.expect(t, "head disk 0", "nothing")
		})
	})
}

// zeroBetween looks at a place of pages that are not stored, which held something else.
func zeroBetween(t *testing.T, p *player) {
	t.Helper()
	f, err := os.Open(p.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	if _, err := f.ReadAt(b, 8<<20); err != nil || len(bytes.TrimLeft(b, "\x00")) > 0 {
		t.Errorf("where nothing is stored there is %x, %v", b[:16], err)
	}
}

// loadsThere has a stock QEMU load the image, and the same kind of server.
func loadsThere(t *testing.T, p *player, setup, uri string) {
	t.Helper()
	for _, kind := range []string{stock, p.kind} {
		q := newPlayer(t, kind)
		if err := q.restart(true); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(p.devices[0], q.path("disk")); err != nil {
			t.Fatal(err)
		}
		q.must(t, setup+"open a r disk\nopen b r+direct disk\n"+addAll("a b"))
		q.expect(t, "load "+uri, "completed")
		q.expect(t, "check 3", "as it was")
	}
}
