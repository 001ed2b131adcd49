// SPDX-License-Identifier: Apache-2.0

// Package qemu deals with a stock QEMU from outside: attaches to one that runs, takes its device
// state, finds its memory, launches another from an image.
//
// What it takes from QEMU, and since when: `info ramblock` with host addresses (8.0),
// xen-save-devices-state over a descriptor set on any machine type, mapped-ram loading (9.0;
// with descriptor sets 9.1). While a VM is stopped on our behalf, a guardian process stands by that
// lets it go on should this process be killed.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// VM is a running QEMU that we hold the monitor of.
type VM struct {
	QMP         *qmp.Client
	Socket      string // the monitor's path
	PID         int
	MachineType string // versioned, as in the stream: pc-q35-10.0
	Blocks      []RAMBlock
	CommandLine CommandLine

	cmdline *os.File // /proc/PID/cmdline
	gone    bool     // when this was closed
}

// Attach takes the VM's monitor and learns what it is. Without a socket it is looked for on pid's command
// line; without a pid it is the socket's peer.
func Attach(ctx context.Context, socket string, pid int) (*VM, error) {
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
	monitor, err := qmp.Dial(ctx, socket)
	if err != nil {
		return nil, explainBusy(err)
	}
	return AttachMonitor(ctx, monitor, socket, pid)
}

// AttachMonitor is Attach with a connection to the monitor, which it takes over.
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
	// Later, when rights are given up, this cannot be looked at any more.
	if err := descriptorLimit(vm.PID, neededDescriptors); err != nil {
		return err
	}
	// A descriptor tells of its end even where /proc is out of reach by then (package sandbox).
	vm.cmdline, _ = os.Open(fmt.Sprintf("/proc/%d/cmdline", vm.PID))
	if vm.MachineType, err = machineType(ctx, vm.QMP); err != nil {
		return err
	}
	vm.Blocks, err = QueryRAMBlocks(ctx, vm.QMP)
	return err
}

// machineType asks for the name of the machine's class, which is its name in the stream and "-machine".
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

// Gone tells whether the VM's process has ended, reaped or not. A process without memory has an empty command line.
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

// Close lets the monitor go.
func (vm *VM) Close() error {
	vm.gone = vm.Gone()
	vm.cmdline.Close() // nil, too
	return vm.QMP.Close()
}

// ErrNoMonitor: a command line names no QMP socket.
var ErrNoMonitor = errors.New("its command line names no QMP socket: give one with --qmp")
