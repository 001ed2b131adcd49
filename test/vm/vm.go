// SPDX-License-Identifier: Apache-2.0

// Package vm runs a real Linux guest in a stock QEMU, for tests, benchmarks and
// the demonstration. The guest is Debian's cloud kernel with one process, the
// program in test/guest, which knows what its memory has to contain:
//
//	v, err := vm.Start(ctx, vm.Config{Memory: "512M", Fill: 64})
//	...                            save it, through the monitor at v.QMP
//	v.Kill()
//	...                            restore it, with v.ArgsIn(dir)
//	w, err := vm.Attach(ctx, vm.SerialIn(dir), "")
//	r, err := w.Check()            r.Wrong is 0 if nothing was lost
//
// [Start] makes the guest's initramfs when it is not there or not up to date,
// which needs the checkout of Ramjet and Go. Kernel and QEMU come from
// scripts/setup; [Available] says what is missing.
//
// The environment may name others: RAMJET_QEMU a program, RAMJET_KERNEL a kernel
// image, RAMJET_MODULES the directory of its virtio drivers (*.ko), RAMJET_ACCEL
// an accelerator other than tcg.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Config says what machine to start. The zero Config is a pc with one processor
// and 512 MiB of anonymous memory.
type Config struct {
	QEMU    string  // program; "": RAMJET_QEMU, or qemu-system-x86_64
	Machine string  // machine type, pc if empty; pc, q35 and versioned ones boot
	Memory  string  // size as -m takes it, 512M if empty
	Backend Backend // what the memory is made of
	Nodes   int     // NUMA nodes, each with a RAM block of its own; less than 2: one block
	MemPath string  // file or directory of a File backend; "": the file ram in the VM's directory
	CPUs    int     // 0: one

	Disk    string // image for a virtio disk, qcow2 if its name ends so, else raw; "": none
	Net     bool   // a virtio network card on QEMU's user network
	Balloon bool   // a virtio balloon

	ExtraArgs []string // more arguments, last in the command line
	Append    string   // more words for the kernel's command line

	Seed  uint64        // what the pages' contents are computed from
	Fill  int           // MiB in use before Start returns
	Tick  time.Duration // interval of the guest's counter lines; 0: none
	Dirty int           // MiB/s that the guest rewrites from the start
	Watch int           // MiB/s that the guest checks all the time

	Dir string // where its sockets are made; "": a new directory that Kill removes
}

// VM is a guest that runs, or that ran.
type VM struct {
	// QMP is the path of the monitor socket for the program under test. The
	// VM's own methods use another one, so that both can look at a time, except
	// after Attach.
	QMP string
	// Serial is the path of the serial console's socket.
	Serial string
	// Program is the QEMU that runs, Args its arguments without the program.
	Program string
	Args    []string
	// PID is QEMU's process.
	PID int
	// Dir is where the sockets are.
	Dir string
	// Boot is the time from the start of QEMU to the guest's ready line,
	// filling its memory included.
	Boot time.Duration

	monitor string // socket of the VM's own monitor
	console *console
	process *process // nil for an attached one
	ownDir  bool
	memPath string
}

// Names of the sockets in a VM's directory.
const (
	qmpSocket    = "qmp.sock"
	ownSocket    = "own.sock"
	serialSocket = "serial.sock"
)

// SerialIn, and QMPIn, are the paths of the sockets of a VM that was started with
// the arguments that ArgsIn(dir) returned.
func SerialIn(dir string) string { return filepath.Join(dir, serialSocket) }

// QMPIn is described at SerialIn.
func QMPIn(dir string) string { return filepath.Join(dir, qmpSocket) }

// Start starts a machine and returns when its guest is ready, its memory filled.
// The end of ctx ends the wait, and the machine. The machine does not outlive the
// calling process.
func Start(ctx context.Context, c Config) (*VM, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	v := &VM{Dir: c.Dir, Program: c.QEMU}
	if v.Program == "" {
		v.Program = Program()
	}
	if v.Dir == "" {
		dir, err := os.MkdirTemp("", "ramjet-vm-")
		if err != nil {
			return nil, err
		}
		v.Dir, v.ownDir = dir, true
	}
	if err := v.start(ctx, c); err != nil {
		v.Kill()
		return nil, err
	}
	return v, nil
}

func (v *VM) start(ctx context.Context, c Config) error {
	kernel, err := Kernel()
	if err != nil {
		return err
	}
	initrd, err := Initrd(ctx)
	if err != nil {
		return err
	}
	v.QMP, v.Serial, v.monitor = QMPIn(v.Dir), SerialIn(v.Dir), filepath.Join(v.Dir, ownSocket)
	if v.memPath = c.MemPath; v.memPath == "" {
		v.memPath = filepath.Join(v.Dir, "ram")
	}
	if v.Args, err = c.args(v, kernel, initrd); err != nil {
		return err
	}
	begin := time.Now()
	if v.process, err = spawn(v.Program, v.Args); err != nil {
		return err
	}
	v.PID = v.process.pid
	if v.console, err = dialConsole(ctx, v.Serial, v.process.done); err == nil {
		err = v.console.waitReady(ctx)
	}
	if err != nil {
		return v.explain(err)
	}
	v.Boot = time.Since(begin)
	return nil
}

// explain adds what QEMU and the guest said last to an error.
func (v *VM) explain(err error) error {
	if v.process != nil {
		if s := v.process.output(); s != "" {
			err = fmt.Errorf("%w\nQEMU: %s", err, s)
		}
	}
	if v.console != nil {
		if s := v.console.transcript(); s != "" {
			err = fmt.Errorf("%w\nconsole: %s", err, s)
		}
	}
	return err
}

// AttachTimeout bounds Attach and Connect, whatever their contexts say.
const AttachTimeout = time.Minute

// Attach connects to a guest that was started or restored by others: to its
// serial console, which serves one connection at a time (see Close), and, when
// qmpPath is not empty, to its monitor, for as long as each question to that
// takes. It returns when the guest answers.
func Attach(ctx context.Context, serialPath, qmpPath string) (*VM, error) {
	ctx, cancel := context.WithTimeout(ctx, AttachTimeout)
	defer cancel()
	v, err := Connect(ctx, serialPath, qmpPath)
	if err != nil {
		return nil, err
	}
	if err := v.console.waitAnswer(ctx); err != nil {
		v.console.close()
		return nil, v.explain(err)
	}
	return v, nil
}

// Connect is Attach for a guest that is paused: it does not wait for an answer.
// What is sent to a machine that still loads its state is lost.
func Connect(ctx context.Context, serialPath, qmpPath string) (*VM, error) {
	ctx, cancel := context.WithTimeout(ctx, AttachTimeout)
	defer cancel()
	c, err := dialConsole(ctx, serialPath, nil)
	if err != nil {
		return nil, err
	}
	return &VM{
		QMP: qmpPath, Serial: serialPath, Dir: filepath.Dir(serialPath),
		PID: c.peer, monitor: qmpPath, console: c,
	}, nil
}

// Close closes the connection to the console of a VM that shall run on. A new
// Attach is possible then.
func (v *VM) Close() {
	if v.console != nil {
		v.console.close()
	}
}

// Kill ends the machine as a power failure would, and returns when the process is
// gone. Of a VM from Start it also removes the directory, unless Config named it.
// Calling it again does nothing.
func (v *VM) Kill() error {
	var err error
	v.Close()
	switch {
	case v.process != nil:
		v.process.kill()
	case v.PID != 0:
		err = killOther(v.PID)
	}
	if v.ownDir {
		err = errors.Join(err, os.RemoveAll(v.Dir))
	}
	return err
}

// Stderr is what QEMU of a VM from Start printed, the last 64 KiB.
func (v *VM) Stderr() string {
	if v.process == nil {
		return ""
	}
	return v.process.output()
}

// Exited is closed when QEMU of a VM from Start has ended; nil for others.
func (v *VM) Exited() <-chan struct{} {
	if v.process == nil {
		return nil
	}
	return v.process.done
}
