// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
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

// fake is a QEMU that is none: a monitor in this process, whose guest's memory is this process's. A test can have it do
// anything at a command. What a real one says is held to in test/conformance.
type fake struct {
	socket string
	server *qmp.Server
	block  []byte

	mu     sync.Mutex
	conns  []*net.UnixConn
	hooks  map[string]func(r *qmp.Request) (any, error) // in place of what it does at a command
	log    []string                                     // commands, in order
	sets   map[int64][]*os.File
	got    []*os.File // that came with commands that take none
	status string
	caps   map[string]bool
	params map[string]any
}

const fakeMemory = 4 << 20

func newFake(t *testing.T) *fake {
	t.Helper()
	return newFakeOf(t, &qmp.Server{Greeting: qmp.Greeting{Major: 10}})
}

func newFakeOf(t *testing.T, s *qmp.Server) *fake {
	t.Helper()
	f := &fake{socket: filepath.Join(t.TempDir(), "qemu"), status: "running", hooks: map[string]func(*qmp.Request) (any, error){},
		sets: map[int64][]*os.File{}, caps: map[string]bool{}, params: map[string]any{"multifd-channels": 2, "direct-io": false,
			"max-bandwidth": 0, "zero-page-detection": "multifd", "multifd-compression": "none", "tls-creds": "", "mode": "normal"}}
	var err error
	if f.block, err = unix.Mmap(-1, 0, fakeMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		t.Fatal(err)
	}
	for i := range f.block[:1<<20] {
		f.block[i] = byte(i>>12 + i>>3 + 1)
	}
	f.server, s.Fallback = s, f.execute
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.socket})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	spawn(&wg, func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			spawn(&wg, func() { f.server.ServeConn(context.Background(), conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.die()
		wg.Wait()
		for _, s := range f.sets {
			closeFiles(s)
		}
		closeFiles(f.got)
		unix.Munmap(f.block)
	})
	return f
}

func spawn(wg *sync.WaitGroup, do func()) {
	wg.Add(1)
	go func() { defer wg.Done(); do() }()
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// die ends all connections, as the end of the process would, for everybody who has a descriptor of one.
func (f *fake) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		if rc, err := c.SyscallConn(); err == nil {
			rc.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		}
	}
}

// at has it do something else at a command; nil ends that.
func (f *fake) at(command string, do func(r *qmp.Request) (any, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks[command] = do
}

func (f *fake) execute(_ context.Context, r *qmp.Request) (any, error) {
	f.mu.Lock()
	f.log = append(f.log, r.Name)
	hook := f.hooks[r.Name]
	f.mu.Unlock()
	if hook != nil {
		return hook(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Name != "add-fd" && r.Name != "getfd" {
		f.got = append(f.got, r.TakeFiles()...)
	}
	return f.right(r)
}

// right is what a QEMU does.
func (f *fake) right(r *qmp.Request) (any, error) {
	var args struct {
		Set          *int64 `json:"fdset-id"`
		Filename     string
		Capabilities []struct {
			Capability string
			State      bool
		}
	}
	json.Unmarshal(r.Arguments(), &args)
	switch r.Name {
	case "echo":
		if r.Arguments() == nil {
			return nil, nil
		}
		return r.Arguments(), nil
	case "qom-get":
		return "pc-i440fx-10.0-machine", nil
	case "human-monitor-command":
		return f.ramblocks(), nil
	case "query-migrate", "migrate":
		return map[string]any{}, nil
	case "query-status":
		return map[string]any{"status": f.status, "running": f.status == "running"}, nil
	case "query-target":
		return map[string]any{"arch": "x86_64"}, nil
	case "qom-list":
		return []any{}, nil
	case "query-migrate-capabilities":
		list := []any{}
		for name, on := range f.caps {
			list = append(list, map[string]any{"capability": name, "state": on})
		}
		return list, nil
	case "query-migrate-parameters":
		return f.params, nil
	case "migrate-set-capabilities":
		for _, c := range args.Capabilities {
			f.caps[c.Capability] = c.State
		}
		return nil, nil
	case "migrate-set-parameters":
		return nil, json.Unmarshal(r.Arguments(), &f.params)
	case "stop":
		f.become("paused", "STOP")
		return nil, nil
	case "cont":
		f.become("running", "RESUME")
		return nil, nil
	case "xen-save-devices-state":
		return nil, f.devices(args.Filename)
	}
	return f.descriptors(r, args.Set)
}

// become changes its state, with the event that tells of it if it is another.
func (f *fake) become(status, event string) {
	if f.status != status {
		f.server.Emit(qmp.Event{Name: event})
	}
	f.status = status
}

func (f *fake) descriptors(r *qmp.Request, set *int64) (any, error) {
	switch r.Name {
	case "add-fd":
		file, err := r.TakeFile()
		if err != nil {
			return nil, err
		}
		id := int64(0)
		if set != nil {
			id = *set
		}
		f.sets[id] = append(f.sets[id], file)
		return map[string]any{"fdset-id": id, "fd": file.Fd()}, nil
	case "remove-fd":
		if set == nil || f.sets[*set] == nil {
			return nil, qmp.Errorf("File descriptor named 'fdset-id:x' not found")
		}
		closeFiles(f.sets[*set])
		delete(f.sets, *set)
		return nil, nil
	case "query-fdsets":
		list := []qmp.FDSet{}
		for id, files := range f.sets {
			s := qmp.FDSet{ID: id, FDs: []qmp.FDIn{}}
			for _, file := range files {
				s.FDs = append(s.FDs, qmp.FDIn{FD: int64(file.Fd())})
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, &qmp.Error{Class: qmp.CommandNotFound, Desc: fmt.Sprintf("The command %s has not been found", r.Name)}
}

func (f *fake) ramblocks() string {
	return fmt.Sprintf("              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n"+
		"%24s    4 KiB  0x%016x 0x%016x 0x%016x 0x%016x  rw\r\n", "pc.ram", 0, fakeMemory, fakeMemory, uintptr(unsafe.Pointer(&f.block[0])))
}

// devices writes a device state into a set's descriptor.
func (f *fake) devices(path string) error {
	var set int64
	if _, err := fmt.Sscanf(path, "/dev/fdset/%d", &set); err != nil || len(f.sets[set]) == 0 {
		return qmp.Errorf("Could not open '%s': No such file or directory", path)
	}
	magic := vmstate.Magic()
	b := vmstate.AppendSectionStart(magic[:], vmstate.TypeFull, 3, "globalstate", 0, 1)
	b = binary.BigEndian.AppendUint32(b, 8)
	b = append(append(b, "running"...), make([]byte, 93)...)
	_, err := f.sets[set][0].WriteAt(append(vmstate.AppendFooter(b, 3), vmstate.TypeEOF), 0)
	return err
}

// ran reports whether, and how often, a command has got to it.
func (f *fake) ran(command string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.log {
		if c == command {
			n++
		}
	}
	return n
}

func (f *fake) now() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}
