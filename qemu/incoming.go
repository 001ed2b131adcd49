// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// Incoming is a QEMU that has been started and waits for its state.
type Incoming struct {
	VM
	cmd     *exec.Cmd
	wrapped bool // cmd is a wrapper, which may have another process for QEMU
	stderr  *stderrLog
	exited  chan struct{}
	leash   leash
	before  leftovers
}

// setPID sets the process of QEMU, or of the wrapper that runs it.
func (in *Incoming) setPID(pid int) {
	if pid != in.PID {
		in.PID = pid
		in.leash.hold(pid)
	}
}

// explain replaces an error by what QEMU said last if QEMU has ended.
func (in *Incoming) explain(err error) error {
	select {
	case <-in.exited:
	case <-time.After(200 * time.Millisecond):
		return err
	}
	in.stderr.drain()
	if said := in.stderr.last(); said != "" {
		return fmt.Errorf("QEMU ended: %s", in.CommandLine.explainLock(said))
	}
	return fmt.Errorf("QEMU ended with %s: %w", in.cmd.ProcessState, err)
}

// Loading is a state stream that QEMU is ready to load.
type Loading struct {
	in  *Incoming
	set int64
}

// Offer passes QEMU the file with its state, which is open for reading.
func (in *Incoming) Offer(ctx context.Context, file *os.File) (*Loading, error) {
	on := []capability{{"mapped-ram", true}, {"events", true}}
	if err := in.setCapabilities(ctx, on); err != nil {
		return nil, in.explain(fmt.Errorf("this QEMU cannot load memory images (it must be 9.1 or newer): %w", err))
	}
	set, err := in.PassFiles(ctx, "ramjet state", file)
	if err != nil {
		return nil, in.explain(err)
	}
	return &Loading{in, set}, nil
}

// Load has QEMU load the state, and returns when all of it is loaded.
func (l *Loading) Load(ctx context.Context) error {
	events, cancel := l.in.QMP.Subscribe("MIGRATION")
	defer cancel()
	args := map[string]any{"uri": fmt.Sprintf("file:/dev/fdset/%d", l.set), "exit-on-error": false}
	if err := l.in.QMP.Execute(ctx, "migrate-incoming", args, nil); err != nil {
		return l.in.explain(fmt.Errorf("QEMU refuses to load the state: %w", err))
	}
	if err := l.in.loaded(ctx, events); err != nil {
		return err
	}
	// The next migration is not ours, and gets QEMU's defaults. This is faster before the guest runs: QEMU has one lock
	// for both.
	off := []capability{{"mapped-ram", false}, {"events", false}}
	return errors.Join(l.in.setCapabilities(ctx, off), l.in.QMP.RemoveFDSet(ctx, l.set))
}

// loaded waits for the end of the incoming migration.
func (in *Incoming) loaded(ctx context.Context, events <-chan qmp.Event) error {
	for {
		var m migrationInfo
		if err := in.QMP.Execute(ctx, "query-migrate", nil, &m); err != nil {
			return in.explain(err)
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed":
			return fmt.Errorf("QEMU could not load the state: %s", in.CommandLine.explainLock(missingDevice(strings.Join(nonEmpty(m.Error, in.stderr.last()), ": "))))
		}
		select {
		case <-events:
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var unknownSection = cmdline.Lazily(`Unknown (?:savevm|ramblock)[^']*'([^']+)'`)

// missingDevice adds advice to the error of a QEMU that has no device for a part of the state.
func missingDevice(said string) string {
	m := unknownSection().FindStringSubmatch(said)
	if m == nil {
		return said
	}
	return fmt.Sprintf("the image has the state of a device %s, which this command line does not make: add its -device in the place that it had, also one that was plugged in while the VM ran (%s)", m[1], said)
}

func nonEmpty(s ...string) (out []string) {
	for _, v := range s {
		if v != "" {
			out = append(out, v)
		}
	}
	return out
}

// Cont lets the guest run. QEMU takes its disks' locks only then.
func (in *Incoming) Cont(ctx context.Context) error {
	err := in.VM.Cont(ctx)
	if err == nil {
		return nil
	}
	if said := in.CommandLine.explainLock(err.Error()); said != err.Error() {
		return errors.New(said)
	}
	return err
}

// Release leaves the VM to itself. The channel that it returns is closed when QEMU has ended.
func (in *Incoming) Release() <-chan struct{} {
	in.leash.release()
	in.QMP.Close()
	in.stderr.release()
	return in.exited
}

// ExitCode is QEMU's exit status after it has ended; 128+N if signal N ended it.
func (in *Incoming) ExitCode() int {
	<-in.exited
	in.stderr.drain()
	if ws, ok := in.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return in.cmd.ProcessState.ExitCode()
}

// Signal sends QEMU a signal.
func (in *Incoming) Signal(s os.Signal) {
	if n, ok := s.(syscall.Signal); ok && in.PID != in.cmd.Process.Pid {
		_ = syscall.Kill(in.PID, n)
		return
	}
	_ = in.cmd.Process.Signal(s)
}

// Kill ends a QEMU whose guest has not run, and removes the sockets and files that QEMU made.
func (in *Incoming) Kill() error {
	if in.QMP != nil {
		in.QMP.Close()
	}
	if in.wrapped {
		killTree(in.cmd.Process.Pid)
	}
	_ = in.cmd.Process.Kill()
	<-in.exited
	in.leash.release()
	in.before.remove()
	return nil
}

// leftovers are the sockets and files that QEMU makes by its command line, and leaves when it is killed: each as it was
// before QEMU started, nil if it did not exist.
type leftovers map[string]os.FileInfo

// lookBefore is to be called before QEMU is started.
func (l *Launch) lookBefore() leftovers {
	before := leftovers{}
	for _, e := range l.FinalArgs().Exclusive(l.Dir) {
		switch e.Kind {
		case cmdline.SocketKind, cmdline.FileKind, cmdline.MemoryFileKind:
			before[e.Name], _ = os.Lstat(e.Name)
		}
	}
	return before
}

// remove removes what QEMU made: files that did not exist, and sockets that are other ones than before.
func (before leftovers) remove() {
	for path, was := range before {
		now, err := os.Lstat(path)
		switch {
		case err != nil:
		case was == nil && (now.Mode().IsRegular() || now.Mode()&os.ModeSocket != 0),
			was != nil && now.Mode()&os.ModeSocket != 0 && !os.SameFile(was, now):
			os.Remove(path)
		}
	}
}
