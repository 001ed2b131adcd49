// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// pretender is a QEMU that is none: a monitor in this process, whose memory is this process's. It can be told to
// misbehave at any step of the dialogue. It serves one client at a time, as QEMU does.
type pretender struct {
	socket  string
	blocks  []pretended
	misdeed func(p *pretender, step int, command string) *misdeed // asked at each command; nil: none

	mu      sync.Mutex
	conn    *net.UnixConn // the present client's
	server  *qmp.Server   // and its session
	step    int
	status  string
	stopped int // how often
	sets    map[int64][]*os.File
}

// misdeed is what it does instead of, or besides, carrying a command out.
type misdeed struct {
	before func()                               // first
	answer func(r any, err error) (any, error)  // in place of the right one
	undone bool                                 // the command is not carried out
	raw    func(conn *net.UnixConn) (stop bool) // said before the answer, as it is; stop: the connection is closed then
}

type pretended struct {
	name  string
	bytes []byte
}

func newPretender(t *testing.T) *pretender {
	t.Helper()
	p := &pretender{socket: filepath.Join(t.TempDir(), "qmp"), status: "running", sets: map[int64][]*os.File{}}
	p.block(t, "pc.ram", 8<<20, true)
	p.block(t, "/rom@etc/acpi/tables", 128<<10, false)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket})
	do(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			s := &qmp.Server{Greeting: qmp.Greeting{Major: 10}, Fallback: p.execute}
			p.mu.Lock()
			p.conn, p.server = conn, s
			p.mu.Unlock()
			_ = s.ServeConn(context.Background(), conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		p.hangUp()
		<-done
	})
	return p
}

// hangUp ends the connection.
func (p *pretender) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		_ = unixShutdown(p.conn)
	}
}

// unixShutdown ends a connection for all who hold a descriptor of it.
func unixShutdown(conn *net.UnixConn) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
}

// block maps memory with something in it.
func (p *pretender) block(t *testing.T, name string, size int, shared bool) {
	t.Helper()
	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	if shared {
		var err error
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		do(t, err)
		do(t, unix.Ftruncate(fd, int64(size)))
		flags = unix.MAP_SHARED
		defer unix.Close(fd)
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	do(t, err)
	t.Cleanup(func() { unix.Munmap(b) })
	rand.NewChaCha8([32]byte{byte(len(name))}).Read(b[size/4 : size/2])
	p.blocks = append(p.blocks, pretended{name, b})
}

// execute is the monitor.
func (p *pretender) execute(_ context.Context, r *qmp.Request) (any, error) {
	p.mu.Lock()
	p.step++
	step, conn, misdeeds := p.step, p.conn, p.misdeed
	p.mu.Unlock()
	var m *misdeed
	if misdeeds != nil {
		m = misdeeds(p, step, r.Name)
	}
	if m == nil {
		m = &misdeed{}
	}
	if m.before != nil {
		m.before()
	}
	var result any
	var err error
	if !m.undone {
		p.mu.Lock()
		result, err = p.right(r)
		p.mu.Unlock()
	}
	if m.raw != nil && m.raw(conn) {
		_ = unixShutdown(conn)
	}
	if m.answer != nil {
		result, err = m.answer(result, err)
	}
	return result, err
}

// right does and answers what a QEMU would.
func (p *pretender) right(r *qmp.Request) (any, error) {
	var args struct {
		Set      int64  `json:"fdset-id"`
		Line     string `json:"command-line"`
		Filename string `json:"filename"`
	}
	_ = json.Unmarshal(r.Arguments(), &args)
	switch r.Name {
	case "qom-get":
		return "pc-i440fx-10.0-machine", nil
	case "human-monitor-command":
		return p.ramblocks(), nil
	case "query-migrate":
		return map[string]any{}, nil
	case "query-status":
		return map[string]any{"status": p.status, "running": p.status == "running"}, nil
	case "query-target":
		return map[string]any{"arch": "x86_64"}, nil
	case "qom-list", "query-memdev", "query-memory-devices", "query-block", "query-named-block-nodes":
		return []any{}, nil
	case "query-fdsets":
		list := []qmp.FDSet{}
		for id := range p.sets {
			list = append(list, qmp.FDSet{ID: id, FDs: []qmp.FDIn{}})
		}
		return list, nil
	case "add-fd":
		f, err := r.TakeFile()
		if err != nil {
			return nil, err
		}
		p.sets[args.Set] = append(p.sets[args.Set], f)
		return map[string]any{"fdset-id": args.Set, "fd": f.Fd()}, nil
	case "remove-fd":
		if p.sets[args.Set] == nil {
			return nil, qmp.Errorf("File descriptor named 'fdset-id:%d' not found", args.Set)
		}
		p.drop(args.Set)
		return nil, nil
	case "stop":
		p.become("paused", "STOP")
		p.stopped++
		return nil, nil
	case "cont":
		p.become("running", "RESUME")
		return nil, nil
	case "xen-save-devices-state":
		return nil, p.devices(args.Filename)
	}
	return nil, &qmp.Error{Class: qmp.CommandNotFound, Desc: fmt.Sprintf("The command %s has not been found", r.Name)}
}

// become changes its state, with the event that tells of it if it is another.
func (p *pretender) become(status, event string) {
	if p.status != status && p.server != nil {
		p.server.Emit(qmp.Event{Name: event})
	}
	p.status = status
}

func (p *pretender) drop(set int64) {
	for _, f := range p.sets[set] {
		f.Close()
	}
	delete(p.sets, set)
}

func (p *pretender) ramblocks() string {
	s := "              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n"
	var offset int
	for _, b := range p.blocks {
		s += fmt.Sprintf("%24s    4 KiB  0x%016x 0x%016x 0x%016x 0x%016x  rw\r\n",
			b.name, offset, len(b.bytes), len(b.bytes), uintptr(unsafe.Pointer(&b.bytes[0])))
		offset += len(b.bytes)
	}
	return s
}

// devices writes a device state into a set's descriptor.
func (p *pretender) devices(path string) error {
	var set int64
	if _, err := fmt.Sscanf(path, "/dev/fdset/%d", &set); err != nil || len(p.sets[set]) == 0 {
		return qmp.Errorf("Could not open '%s': No such file or directory", path)
	}
	magic := vmstate.Magic()
	b := vmstate.AppendSectionStart(magic[:], vmstate.TypeFull, 0, "timer", 0, 2)
	b = vmstate.AppendFooter(append(b, make([]byte, 24)...), 0)
	b = vmstate.AppendSectionStart(b, vmstate.TypeFull, 3, "globalstate", 0, 1)
	b = binary.BigEndian.AppendUint32(b, 8)
	b = append(append(b, "running"...), make([]byte, 93)...)
	b = append(vmstate.AppendFooter(b, 3), vmstate.TypeEOF)
	_, err := p.sets[set][0].WriteAt(b, 0)
	return err
}

// now is its state.
func (p *pretender) now() (status string, sets int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, len(p.sets)
}

// reset makes it as new, to misbehave in another way.
func (p *pretender) reset(misdeed func(p *pretender, step int, command string) *misdeed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.misdeed, p.step, p.status = misdeed, 0, "running"
	for set := range p.sets {
		p.drop(set)
	}
}
