// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/migration"
)

// Memory is the memory of a guest that has nothing else: named pieces, each in a file of its own. A QEMU machine of the
// type "none" with the same pieces is the same guest. Its methods may be called by any goroutine, Close once nothing
// uses the memory.
type Memory struct {
	mu     sync.Mutex
	pieces []*piece // in the order of the stream
}

// machineType is the machine type in the streams of such a guest. QEMU's machine "none" has no devices.
const machineType = "none"

// piece is one memory backend.
type piece struct {
	name     string
	kind     string // the type of the QEMU object
	size     int64
	offset   int64 // in file
	file     *os.File
	fixed    bool // from Memory.Add: object-del refuses it as in use
	writable bool
}

// NewMemory makes a guest without memory.
func NewMemory() *Memory { return &Memory{} }

// Limits of a guest.
const (
	maxPieces = 256
	maxMemory = mappedram.MaxBlockLength
)

// Add gives the guest a new piece of memory, all zeros, which cannot be removed. name must be an id as QEMU has them;
// size is in bytes, a multiple of 4096.
func (m *Memory) Add(name string, size int64) error {
	if !validID(name) {
		return fmt.Errorf("%q cannot be the name of memory: letters, digits, '-', '.' and '_', beginning with a letter", name)
	}
	if size <= 0 || size%guestmem.PageSize != 0 || size > maxMemory {
		return fmt.Errorf("memory %s of %d bytes: give a multiple of %d, up to %d", name, size, guestmem.PageSize, int64(maxMemory))
	}
	f, err := memfd(name, size)
	if err != nil {
		return err
	}
	return m.add(&piece{name: name, kind: memfdType, size: size, file: f, fixed: true, writable: true})
}

func memfd(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("ramjet-"+name[:min(len(name), 200)], unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("no memory for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), "memory "+name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("no memory for %s: %w", name, err)
	}
	return f, nil
}

var errDuplicate = errors.New("there is such a piece already")

// add adds p, and closes its file if that fails.
func (m *Memory) add(p *piece) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := error(nil)
	switch {
	case m.Find(p.name) >= 0:
		err = errDuplicate
	case len(m.pieces) == maxPieces:
		err = fmt.Errorf("a guest has at most %d pieces of memory", maxPieces)
	}
	if err != nil {
		p.file.Close()
		return err
	}
	// QEMU sorts its list by length, the longest first and the newest of equals last (ram_block_add).
	at := slices.IndexFunc(m.pieces, func(q *piece) bool { return q.size < p.size })
	if at < 0 {
		at = len(m.pieces)
	}
	m.pieces = slices.Insert(m.pieces, at, p)
	return nil
}

func (m *Memory) Find(name string) int {
	return slices.IndexFunc(m.pieces, func(p *piece) bool { return p.name == name })
}

// view opens all of the memory.
func (m *Memory) view(access guestmem.Access) (*migration.View, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &migration.View{Machine: machineType}
	for _, p := range m.pieces {
		if access == guestmem.ReadWrite && !p.writable {
			v.Close()
			return nil, fmt.Errorf("memory %s cannot be written: its descriptor is open for reading only", p.name)
		}
		mem, err := p.open()
		if err != nil {
			v.Close()
			return nil, err
		}
		v.Memory = append(v.Memory, mem)
		v.Blocks = append(v.Blocks, mappedram.Block{Name: p.name, Length: p.size})
	}
	if len(v.Blocks) == 0 {
		return nil, errors.New("this guest has no memory: give it some with object-add, or with ramjet serve --memory")
	}
	return v, nil
}

// open maps a duplicate of the descriptor: object-del may close the piece's own during a migration.
func (p *piece) open() (guestmem.Memory, error) {
	fd, err := unix.FcntlInt(p.file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return guestmem.OpenFile(os.NewFile(uintptr(fd), p.file.Name()), p.offset, p.size, nil)
}

// same reports whether v has all of the memory and no other.
func (m *Memory) same(v *migration.View) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(v.Blocks) != len(m.pieces) {
		return false
	}
	for i, p := range m.pieces {
		if v.Blocks[i].Name != p.name || v.Blocks[i].Length != p.size {
			return false
		}
	}
	return true
}

// Close closes the memory's files.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	for _, p := range m.pieces {
		err = errors.Join(err, p.file.Close())
	}
	m.pieces = nil
	return err
}

// validID is QEMU's id_wellformed.
func validID(id string) bool {
	for i, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_')) {
			return false
		}
	}
	return id != ""
}
