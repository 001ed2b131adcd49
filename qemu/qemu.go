// SPDX-License-Identifier: Apache-2.0

// Package qemu works with a stock QEMU from outside: it attaches to a running one (Attach), finds its memory, takes its
// device state, stops its guest for a save (Pause), and starts another QEMU that loads an image (Launch).
//
// It needs from QEMU `info ramblock` with host addresses (since 8.0), xen-save-devices-state into a descriptor set on
// any machine type, and mapped-ram loading (9.0; with descriptor sets 9.1). While a guest is stopped for a save a
// guardian process stands by, which lets the guest go on if this process is killed.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// VM is a running QEMU, with a connection to its monitor.
type VM struct {
	QMP         *qmp.Client
	Socket      string // the monitor's path
	PID         int
	MachineType string // versioned, as in the stream: pc-q35-10.0
	Blocks      []RAMBlock
	CommandLine CommandLine
	Calls       *sys.Calls // by which its memory is reached; nil: the kernel's

	cmdline *os.File // /proc/PID/cmdline
	gone    bool     // when this was closed
}

// Attach connects to a VM's monitor and finds out what the VM is. An empty socket is looked up on the command line of
// the process pid; without a pid (0) the process is the peer of the socket.
func Attach(ctx context.Context, socket string, pid int, calls *sys.Calls) (*VM, error) {
	if socket == "" {
		cl, err := readCommandLine(pid)
		if err != nil {
			return nil, err
		}
		if socket = cmdline.ParseArgs(cl.Args).Monitor(cl.Dir); socket == "" {
			err = ErrNoMonitor
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		socket = socketOf(pid, socket)
	}
	monitor, err := qmp.Dialer{Calls: calls}.Dial(ctx, socket)
	if err != nil {
		return nil, explainBusy(err)
	}
	vm, err := AttachMonitor(ctx, monitor, socket, pid)
	if err == nil {
		vm.Calls = calls
	}
	return vm, err
}

// AttachMonitor is Attach with a connection to the monitor, which belongs to the VM from then on.
func AttachMonitor(ctx context.Context, monitor *qmp.Client, socket string, pid int) (*VM, error) {
	vm := &VM{QMP: monitor, Socket: socket, PID: pid}
	if err := vm.learn(ctx); err != nil {
		vm.Close()
		return nil, err
	}
	return vm, nil
}

func (vm *VM) learn(ctx context.Context) (err error) {
	if vm.PID == 0 {
		if vm.PID, err = vm.QMP.PeerPID(); err != nil {
			return fmt.Errorf("cannot tell which process is behind %s (name it with --pid): %w", vm.Socket, err)
		}
	} else if err := checkPeer(vm.QMP, vm.Socket, vm.PID); err != nil {
		return err
	}
	if vm.CommandLine, err = readCommandLine(vm.PID); err != nil {
		return err
	}
	// This cannot be read later, when rights have been given up.
	if err := descriptorLimit(vm.PID, neededDescriptors); err != nil {
		return err
	}
	// An open descriptor shows the end of the process even when /proc cannot be reached any more (package sandbox).
	vm.cmdline, _ = os.Open(fmt.Sprintf("/proc/%d/cmdline", vm.PID))
	if vm.MachineType, err = machineType(ctx, vm.QMP); err != nil {
		return err
	}
	vm.Blocks, err = QueryRAMBlocks(ctx, vm.QMP)
	return err
}

// machineType asks for the machine type as the stream has it. The name of the machine's class is that and "-machine".
func machineType(ctx context.Context, m *qmp.Client) (string, error) {
	var class string
	args := map[string]any{"path": "/machine", "property": "type"}
	if err := m.Execute(ctx, "qom-get", args, &class); err != nil {
		return "", fmt.Errorf("cannot tell the machine type: %w", err)
	}
	return strings.TrimSuffix(class, "-machine"), nil
}

// Version is QEMU's own, "10.0.2".
func (vm *VM) Version() string {
	g := vm.QMP.Greeting()
	return fmt.Sprintf("%d.%d.%d", g.Major, g.Minor, g.Micro)
}

// NeedsVersion refuses an older QEMU than major.minor, needed for something.
func (vm *VM) NeedsVersion(major, minor int, something string) error {
	g := vm.QMP.Greeting()
	if g.Major > major || g.Major == major && g.Minor >= minor {
		return nil
	}
	return unsavable("this VM's QEMU is %s, it must be %d.%d or newer %s", vm.Version(), major, minor, something)
}

// Gone reports whether the VM's process has ended, reaped or not. A process without memory has an empty command line.
func (vm *VM) Gone() bool {
	var b [1]byte
	n, err := vm.cmdline.ReadAt(b[:], 0)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrInvalid) {
		var text []byte
		text, err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", vm.PID))
		n = len(text)
	}
	return vm.gone || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || (err == nil || err == io.EOF) && n == 0
}

// Close closes the connection to the monitor.
func (vm *VM) Close() error {
	vm.gone = vm.Gone()
	vm.cmdline.Close() // nil, too
	return vm.QMP.Close()
}

// ErrNoMonitor: a command line names no QMP socket.
var ErrNoMonitor = errors.New("its command line names no QMP socket: give one with --qmp")
