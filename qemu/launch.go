// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// Launch describes a QEMU to be started that waits for its state (-incoming defer).
type Launch struct {
	CommandLine
	// Wrapper is a command that runs QEMU: nice -n 5.
	Wrapper []string
	// Given are the arguments as the user gave them, before memory was mapped from files. A later save records these.
	Given []string
	// Socket is the path at which the VM's own QMP monitor is to listen; empty: the one that Args name.
	Socket string
	Files  []*os.File // inherited as descriptors FirstFile, FirstFile+1, ...
	Calls  *sys.Calls // by which monitor and memory are reached; nil: the kernel's
	Detach bool       // in a session of its own, with no terminal, outliving us
}

// FirstFile is the descriptor in QEMU of the first of a Launch's files; the one below is our own monitor's. The number
// is high, so that an option which was meant for another process's descriptors (fd=3) does not find one of these.
const FirstFile = 201

const monitorFD = FirstFile - 1

// FinalArgs is the command line that QEMU gets: Args with our monitor and the user's, without options that would start
// the machine in another way than waiting for its state.
func (l *Launch) FinalArgs() cmdline.Args {
	args := l.usersArgs()
	id := args.FreeID("ramjet")
	args = args.With("chardev", monitorChardev(id)).With("mon", "chardev="+id+",mode=control")
	return append(args.With("incoming", "defer"), cmdline.Arg{Name: "S"})
}

func monitorChardev(id string) string { return fmt.Sprintf("socket,id=%s,fd=%d", id, monitorFD) }

// givenVariable is the variable that has the user's command line, a JSON list, in the environment of a QEMU that we
// start. The QEMU's own command line has descriptors in it that no other process has.
const givenVariable = "RAMJET_COMMAND_LINE"

func (l *Launch) environment() ([]string, error) {
	given := &Launch{CommandLine: CommandLine{Args: l.Given}, Socket: l.Socket}
	b, err := json.Marshal(cmdline.ArgumentList(given.usersArgs().Words()))
	return append(os.Environ(), givenVariable+"="+string(b)), err
}

// LoadingArgs is a command line with which QEMU loads the image at path by itself.
func (l *Launch) LoadingArgs(path string, paused bool) cmdline.Args {
	args := l.usersArgs().With("global", "migration.mapped-ram=on").With("incoming", "file:"+path)
	if paused {
		args = append(args, cmdline.Arg{Name: "S"})
	}
	return args
}

// usersArgs are Args with the user's monitor, without options that would start the machine in another way.
func (l *Launch) usersArgs() cmdline.Args {
	args := cmdline.ParseArgs(l.Args).Without("incoming", "S", "daemonize", "loadvm", "preconfig")
	if l.Socket != "" {
		args = args.WithoutQMP().With("qmp", "unix:"+cmdline.Double(l.Socket)+",server=on,wait=off")
	}
	return args
}

// checkMonitors refuses paths of monitors at which another process listens, or no socket can be made.
func (l *Launch) checkMonitors(args cmdline.Args) error {
	for _, m := range args.Monitors() {
		if m.Path == "" {
			continue
		}
		path := l.abs(m.Path)
		if len(path) > 107 {
			return fmt.Errorf("the socket path %s is longer than the 107 bytes that Linux allows", path)
		}
		if p, served := listeningAt(path); served {
			return fmt.Errorf("another VM, %s, has its monitor at %s: give this one its own with --qmp", p, path)
		}
		if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
			return fmt.Errorf("%s is not a socket: give another path with --qmp", path)
		}
	}
	return nil
}

// Start starts QEMU and waits for the greeting of its monitor.
func (l *Launch) Start(ctx context.Context) (*Incoming, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	in := &Incoming{exited: make(chan struct{}), wrapped: len(l.Wrapper) > 0, before: l.lookBefore()}
	in.CommandLine = l.CommandLine
	if in.cmd, err = l.command(theirs); err == nil {
		in.stderr, err = newStderrLog(l.Detach)
	}
	if err != nil {
		ours.Close()
		return nil, err
	}
	in.cmd.Stderr = in.stderr.sink()
	if err := in.run(ours); err != nil {
		in.stderr.close()
		ours.Close()
		return nil, err
	}
	in.QMP, err = l.connect(ctx, ours, in)
	if err != nil {
		return nil, errors.Join(in.explain(err), in.Kill())
	}
	if in.wrapped {
		in.setPID(qemuBehind(in.PID, monitorChardev(l.usersArgs().FreeID("ramjet"))))
	}
	return in, nil
}

// command is the process to start, which inherits QEMU's end of the connection to its monitor.
func (l *Launch) command(monitor *os.File) (*exec.Cmd, error) {
	words := append(slices.Clone(l.Wrapper), l.Executable)
	words = append(words, l.FinalArgs().Words()...)
	c := exec.Command(words[0], words[1:]...)
	c.Dir = l.Dir
	c.ExtraFiles = append(make([]*os.File, monitorFD-firstExtra), append([]*os.File{monitor}, l.Files...)...)
	if l.Detach {
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	} else {
		c.Stdin, c.Stdout = os.Stdin, os.Stdout
	}
	var err error
	c.Env, err = l.environment()
	return c, err
}

// run starts the process, with a leash beside it.
func (in *Incoming) run(monitor *net.UnixConn) (err error) {
	if in.leash, err = newLeash(monitor); err != nil {
		return err
	}
	if err := in.cmd.Start(); err != nil {
		in.leash.release()
		return fmt.Errorf("cannot start QEMU: %w", err)
	}
	in.stderr.started()
	in.setPID(in.cmd.Process.Pid)
	go func() { in.cmd.Wait(); close(in.exited) }()
	return nil
}

// firstExtra is the number that the first of exec.Cmd's ExtraFiles has.
const firstExtra = 3

// connect waits for the greeting, which comes when QEMU has set the machine up. It fails when QEMU ends, or waits for
// something that does not come.
func (l *Launch) connect(ctx context.Context, conn *net.UnixConn, in *Incoming) (*qmp.Client, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-in.exited:
			cancel(context.Canceled)
		case <-ctx.Done():
		}
	}()
	go l.watchStart(ctx, in.PID, cancel)
	m, err := qmp.Dialer{GreetingTimeout: startTimeout, Calls: l.Calls}.NewClient(ctx, conn)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = context.Cause(ctx)
	}
	return m, err
}

// startTimeout bounds the wait for the greeting. A QEMU that preallocates much memory takes minutes.
const startTimeout = 5 * time.Minute

// FindExecutable returns the absolute path of the program that a shell would run by this name.
func FindExecutable(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("there is no QEMU %s here: %w", name, err)
	}
	return filepath.Abs(path)
}
