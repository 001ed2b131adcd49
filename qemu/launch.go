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

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// Launch is a QEMU to be started that waits for its state to come in.
type Launch struct {
	CommandLine
	// Wrapper are the words before QEMU, a program that runs it: nice -n 5.
	Wrapper []string
	// Given are the arguments as the user gave them, before memory was mapped from files: those that a later save is to record.
	Given []string
	// Socket is where the VM's own QMP monitor is to listen; empty: where Args say.
	Socket string
	Files  []*os.File // inherited as descriptors FirstFile, FirstFile+1, ...
	Detach bool       // in a session of its own, with no terminal, outliving us
}

// FirstFile is the number that the first of a Launch's files has in QEMU; one below is our own monitor. It is high, so that no option which
// was meant for another process's descriptors (fd=3) finds one of these.
const FirstFile = 201

const monitorFD = FirstFile - 1

// FinalArgs is the command line that QEMU gets: Args without what would make it do anything else than wait for
// its state, with our monitor and the user's.
func (l *Launch) FinalArgs() cmdline.Args {
	args := l.usersArgs()
	id := args.FreeID("ramjet")
	args = args.With("chardev", monitorChardev(id)).With("mon", "chardev="+id+",mode=control")
	return append(args.With("incoming", "defer"), cmdline.Arg{Name: "S"})
}

func monitorChardev(id string) string { return fmt.Sprintf("socket,id=%s,fd=%d", id, monitorFD) }

// givenVariable is what the environment of a QEMU that we start calls the command line that its user gave, as a
// JSON list. Its own one speaks of descriptors that no other process has.
const givenVariable = "RAMJET_COMMAND_LINE"

func (l *Launch) environment() ([]string, error) {
	given := &Launch{CommandLine: CommandLine{Args: l.Given}, Socket: l.Socket}
	b, err := json.Marshal(cmdline.ArgumentList(given.usersArgs().Words()))
	return append(os.Environ(), givenVariable+"="+string(b)), err
}

// LoadingArgs is a command line with which QEMU loads a stream in the file path by itself, without us.
func (l *Launch) LoadingArgs(path string, paused bool) cmdline.Args {
	args := l.usersArgs().With("global", "migration.mapped-ram=on").With("incoming", "file:"+path)
	if paused {
		args = append(args, cmdline.Arg{Name: "S"})
	}
	return args
}

// usersArgs is Args with the user's monitor, without what would start the machine in another way.
func (l *Launch) usersArgs() cmdline.Args {
	args := cmdline.ParseArgs(l.Args).Without("incoming", "S", "daemonize", "loadvm", "preconfig")
	if l.Socket != "" {
		args = args.WithoutQMP().With("qmp", "unix:"+cmdline.Double(l.Socket)+",server=on,wait=off")
	}
	return args
}

// checkMonitors refuses monitor sockets that somebody still serves, and paths where none can be made.
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

// Start starts it and talks to its monitor.
func (l *Launch) Start(ctx context.Context) (*Incoming, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	words := append(slices.Clone(l.Wrapper), l.Executable)
	words = append(words, l.FinalArgs().Words()...)
	in := &Incoming{exited: make(chan struct{}), wrapped: len(l.Wrapper) > 0, before: l.lookBefore()}
	in.CommandLine = l.CommandLine
	in.cmd = exec.Command(words[0], words[1:]...)
	in.cmd.Dir = l.Dir
	if in.cmd.Env, err = l.environment(); err != nil {
		ours.Close()
		return nil, err
	}
	in.cmd.ExtraFiles = append(make([]*os.File, monitorFD-firstExtra), append([]*os.File{theirs}, l.Files...)...)
	if in.stderr, err = newStderrLog(l.Detach); err != nil {
		ours.Close()
		return nil, err
	}
	in.cmd.Stderr = in.stderr.sink()
	if l.Detach {
		in.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	} else {
		in.cmd.Stdin, in.cmd.Stdout = os.Stdin, os.Stdout
	}
	if in.leash, err = newLeash(ours); err == nil {
		if err = in.cmd.Start(); err != nil {
			in.leash.release()
			err = fmt.Errorf("cannot start QEMU: %w", err)
		}
	}
	if err != nil {
		in.stderr.close()
		ours.Close()
		return nil, err
	}
	in.stderr.started()
	in.setPID(in.cmd.Process.Pid)
	go func() { in.cmd.Wait(); close(in.exited) }()
	in.QMP, err = l.connect(ctx, ours, in)
	if err != nil {
		return nil, errors.Join(in.explain(err), in.Kill())
	}
	if in.wrapped {
		in.setPID(qemuBehind(in.PID, monitorChardev(l.usersArgs().FreeID("ramjet"))))
	}
	return in, nil
}

// firstExtra is the number that the first of exec.Cmd's ExtraFiles has.
const firstExtra = 3

// connect waits for the greeting, which comes when QEMU has set the machine up, or for the end of QEMU, or until it is seen to wait
// for something that does not come.
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
	m, err := qmp.Dialer{GreetingTimeout: startTimeout}.NewClient(ctx, conn)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = context.Cause(ctx)
	}
	return m, err
}

// startTimeout is generous: a QEMU that preallocates much memory takes long to greet.
const startTimeout = 5 * time.Minute

// FindExecutable looks a QEMU up as a shell would, and says how to go on without one.
func FindExecutable(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("there is no QEMU %s here: %w", name, err)
	}
	return filepath.Abs(path)
}
