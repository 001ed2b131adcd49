// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/test/allocs"
)

// FuzzPlainLoad: whatever a stream holds, loading it ends, with the guest's memory as long as it was.
func FuzzPlainLoad(f *testing.F) {
	m := NewMemory()
	if err := m.Add("m0", 16<<10); err != nil {
		f.Fatal(err)
	}
	v, err := m.view(guestmem.Read)
	if err != nil {
		f.Fatal(err)
	}
	m.pieces[0].file.WriteAt([]byte("something"), 8192)
	f.Add(plainStream(f, v))
	short := plainStream(f, v)
	f.Add(short[:len(short)-20])
	f.Fuzz(func(t *testing.T, stream []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		fd, err := unix.MemfdCreate("stream", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "stream")
		defer file.Close()
		file.Write(stream)
		view, err := m.view(guestmem.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		state, err := loadPlain(context.Background(), &migration.Incoming{Opened: &migration.Opened{Main: file}}, view)
		if err == nil && state == "" {
			t.Error("loaded, and no state")
		}
		if st, err := m.pieces[0].file.Stat(); err != nil || st.Size() != 16<<10 {
			t.Errorf("the memory has %d bytes, %v", st.Size(), err)
		}
	})
}

// plainStream saves v.
func plainStream(t testing.TB, v *migration.View) []byte {
	path := t.TempDir() + "/stream"
	b := newBench(t, Options{})
	b.Monitor.memory.pieces[0].file.Close()
	b.Monitor.memory.pieces = nil
	for _, block := range v.Blocks {
		if err := b.memory.Add(block.Name, block.Length); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, block.Length)
		v.Memory[0].Read(p, 0)
		b.memory.pieces[0].file.WriteAt(p, 0)
	}
	b.pass(t, path, os.O_WRONLY|os.O_CREATE)
	b.do(t, "migrate", toSet)
	if i := b.ended(t); i.Status != migration.StatusCompleted {
		t.Fatalf("%+v", i)
	}
	stream, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(stream, []byte("something")) {
		t.Fatalf("the stream: %v", err)
	}
	return stream
}
