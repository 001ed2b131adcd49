// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// TestMake makes an image of a file's bytes, and none when it is stopped.
func TestMake(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	dir := t.TempDir()
	memory := filepath.Join(t.TempDir(), "memory")
	testkit.Check(t, os.WriteFile(memory, make([]byte, size), 0o600))
	testkit.Change(t, memory, 5*mappedram.PageSize, bytes.Repeat([]byte{7}, 2*mappedram.PageSize))
	f, err := os.Open(memory)
	testkit.Check(t, err)
	m, err := guestmem.OpenFile(f, 0, size, nil)
	testkit.Check(t, err)
	defer m.Close()
	layout, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "none", Capabilities: []string{"mapped-ram"}}, []mappedram.Block{{Name: "ram", Length: size}})
	testkit.Check(t, err)
	o, c := MakeOptions{Path: filepath.Join(dir, "image")}, &Contents{Layout: layout, Memory: []guestmem.Memory{m}, Metadata: &seal.Metadata{Format: "ramjet", MachineType: "none"}}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Make(ctx, o, c); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	holds(t, dir, "")
	made, err := Make(context.Background(), o, c)
	if err != nil || made.PagesTotal != 256 || made.PagesStored != 2 {
		t.Fatalf("%+v, %v", made, err)
	}
	r, err := verified(t, o.Path)
	if err != nil || r.ID != made.ID.String() || r.PagesChecked != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}
