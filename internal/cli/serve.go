// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/proxy"
	"github.com/ramjet-vm/ramjet/qmp"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	socket    string
	fd        int
	group     string
	vm        string
	pid       int
	memory    []string
	incoming  bool
	noSandbox bool
	metrics   string
}

func (a *app) serve() *cobra.Command {
	var o serveFlags
	c := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve QMP with descriptor sets and file migration",
		Long: `Serve QEMU's monitor protocol: descriptor sets (add-fd, remove-fd, query-fdsets), and migration to and from files in QEMU's
mapped-ram format, with QEMU's own commands, texts, states and events.

With --vm serve is the monitor of a running QEMU. Everything is passed on both ways, but Ramjet itself does migrations to and
from mapped-ram files. Without --vm the guest is only memory (--memory, or object-add); a QEMU of machine type "none" with the
same memory can load what serve saves, and the other way round.

Clients pass files as descriptors. Before serve answers the first client it gives up access to the file system and all system
calls that it does not need. With --no-sandbox it keeps both, and allows migration to file:PATH.

Only processes of the same user and of root are served, and with --group the members of a group.

If systemd started it, serve uses the socket that systemd passes (LISTEN_FDS), or the one of them at --listen if that is given
too, and tells systemd when it is ready (NOTIFY_SOCKET).`,
		Example: `  ramjet serve --listen /run/ramjet.qmp --memory ram0=4G
  ramjet serve --listen /run/ramjet.qmp --memory ram0=4G --incoming
  ramjet serve --listen /run/vm1-safe.qmp --vm /run/vm1.qmp --metrics 127.0.0.1:9105`,
		Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("listen") && c.Flags().Changed("qmp") {
				return usageError{errors.New("--listen and --qmp are the same: give one")}
			}
			if err := a.runServe(c.Context(), o); err != nil || !a.json {
				return err
			}
			return a.print(map[string]float64{"seconds": time.Since(began).Seconds()}, "")
		},
	}
	f := c.Flags()
	f.StringVar(&o.socket, "listen", "", "make `SOCKET`, with mode 0600, and listen there")
	f.StringVar(&o.socket, "qmp", "", "the same as --listen `SOCKET`")
	f.StringVar(&o.group, "group", "", "serve the members of `GROUP` too; the socket gets mode 0660")
	f.IntVar(&o.fd, "qmp-fd", -1, "serve the inherited descriptor `N`, a Unix socket that listens or is connected")
	f.Lookup("qmp-fd").DefValue = "0" // which help does not show: there is none
	f.StringVar(&o.vm, "vm", "", "be the monitor of the QEMU whose QMP socket is `SOCKET`")
	f.IntVar(&o.pid, "pid", 0, "QEMU's process `PID`, if the socket of --vm does not tell")
	f.StringArrayVar(&o.memory, "memory", nil, "make guest memory, `NAME=SIZE`; repeatable")
	f.BoolVar(&o.incoming, "incoming", false, "wait for migrate-incoming")
	f.BoolVar(&o.noSandbox, "no-sandbox", false, "keep access to the file system, and migrate to and from file:PATH too")
	f.StringVar(&o.metrics, "metrics", "", "serve Prometheus metrics over HTTP at `ADDR`: HOST:PORT, or the path of a socket to make")
	return c
}

func (o serveFlags) check() error {
	switch {
	case (o.socket == "") == (o.fd < 0):
		return errors.New("where to serve? Give a socket to make with --listen, or an inherited one with --qmp-fd")
	case o.vm != "" && (len(o.memory) > 0 || o.incoming):
		return errors.New("--memory and --incoming are for a guest of its own, not for the QEMU of --vm")
	case o.vm == "" && o.pid != 0:
		return errors.New("--pid needs --vm")
	}
	return nil
}

// backend is what answers the clients.
type backend interface{ Close() error }

func (a *app) runServe(ctx context.Context, o serveFlags) (err error) {
	if o.fd < 0 {
		if o.fd, err = passedSocket(o.socket); err != nil {
			return err
		}
		if o.fd >= 0 {
			o.socket = "" // it is there already
		}
	}
	if err := o.check(); err != nil {
		return usageError{err}
	}
	group, err := groupID(o.group)
	if err != nil {
		return usageError{err}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	server := &qmp.Server{Greeting: monitor.Greeting(image.VersionString())}
	b, err := o.backend(ctx, server, end, a.migrated())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	l, conn, err := o.listen(group)
	if err == nil {
		err = a.watch(ctx, o.metrics, server)
	}
	if err != nil {
		return err
	}
	// What listens is ready; what is not there yet waits in its queue. Once the sandbox stands there are no new sockets.
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
		a.log("systemd cannot be told that this is ready: " + err.Error())
	}
	if !o.noSandbox {
		sandbox := monitor.Sandbox
		if p, ok := b.(*proxy.Proxy); ok {
			sandbox = func() error { return monitor.SandboxBeside(p.PID()) }
		}
		if missing := sandbox(); missing != nil {
			a.log(missing.Error())
		}
	}
	err = monitor.Admit{Group: group}.Serve(ctx, server, l, conn)
	// A signal is how a server is told to end.
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, errQuit) && !errors.Is(cause, errInterrupted) {
		err = cause
	}
	return err
}

// watch counts and logs the server's commands, if anybody wants to know. It has to listen before the sandbox.
func (a *app) watch(ctx context.Context, address string, s *qmp.Server) error {
	if address == "" && !a.logging() {
		return nil
	}
	m := newMetrics()
	m.observe(s, a.debug)
	if address == "" {
		return nil
	}
	l, err := listenMetrics(address)
	if err != nil {
		return err
	}
	a.event("metrics at "+l.Addr().String(), "address", l.Addr().String())
	go m.serve(ctx, l)
	return nil
}

// backend makes what is served and gives the server its commands.
func (o serveFlags) backend(ctx context.Context, s *qmp.Server, end context.CancelCauseFunc, log func(migration.Report)) (backend, error) {
	if o.vm == "" {
		return newMonitor(o, s, end, log)
	}
	p, err := proxy.New(ctx, s, proxy.Options{Socket: o.vm, PID: o.pid, Paths: o.noSandbox, Log: log})
	if err != nil {
		return nil, err
	}
	go func() {
		<-p.Gone()
		end(errQuit)
	}()
	return p, nil
}

// migrated returns what logs migrations, nil if nobody wants to read it.
func (a *app) migrated() func(migration.Report) {
	if !a.logging() {
		return nil
	}
	return func(r migration.Report) {
		way := "to"
		if r.Incoming {
			way = "from"
		}
		outcome, attrs := "completed", []any{"file", r.File, "engine", r.Engine, "why", r.Why, "seconds", r.Took.Seconds()}
		if r.Err != nil {
			outcome, attrs = "failed", append(attrs, "error", r.Err)
		}
		said := fmt.Sprintf("migration %s %s by %s (%s): %s after %.3f s", way, r.File, r.Engine, r.Why, outcome, r.Took.Seconds())
		switch {
		case r.Err != nil:
			said += ": " + r.Err.Error()
		case !r.Incoming:
			said += fmt.Sprintf(", %s written, guest stopped for %.3f s", units.BytesSize(float64(r.Bytes)), r.Pause.Seconds())
			attrs = append(attrs, "bytes", r.Bytes, "pause_seconds", r.Pause.Seconds())
		}
		a.event(said, attrs...)
	}
}

// errQuit ends serve because a client said quit, or the QEMU is gone.
var errQuit = errors.New("quit")

// newMonitor makes the guest and the server's commands.
func newMonitor(o serveFlags, server *qmp.Server, end context.CancelCauseFunc, log func(migration.Report)) (*monitor.Monitor, error) {
	memory := monitor.NewMemory()
	for _, s := range o.memory {
		name, text, ok := strings.Cut(s, "=")
		n, err := units.RAMInBytes(text)
		if !ok || err != nil {
			return nil, usageError{fmt.Errorf("--memory %s: give NAME=SIZE, ram0=512M say", s)}
		}
		if err := memory.Add(name, n); err != nil {
			return nil, usageError{err}
		}
	}
	m := monitor.New(memory, monitor.Options{
		Emit:     emitter(server),
		Log:      log,
		Paths:    o.noSandbox,
		Incoming: o.incoming,
		Quit: func(err error) {
			if err == nil {
				err = errQuit
			}
			end(err)
		},
	})
	server.Commands = m.Commands()
	server.Commands["query-version"] = monitor.QueryVersion(server.Greeting)
	return m, nil
}

// passedSocket is the descriptor of the socket that systemd, or who does as it does, has passed: the one at path, or, without
// a path, the only one; -1 for none.
func passedSocket(path string) (int, error) {
	files := activation.Files(true)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if path == "" && len(files) > 1 {
		return -1, fmt.Errorf("%d sockets were passed (LISTEN_FDS): name one with --listen", len(files))
	}
	for _, f := range files {
		name, err := unix.Getsockname(int(f.Fd()))
		if at, ok := name.(*unix.SockaddrUnix); path == "" || err == nil && ok && at.Name == path {
			return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		}
	}
	return -1, nil
}

// groupID is the number of a group, -1 of none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, fmt.Errorf("--group %s: there is no such group", name)
	}
	return strconv.Atoi(g.Gid)
}

func (o serveFlags) listen(group int) (*net.UnixListener, *net.UnixConn, error) {
	if o.fd >= 0 {
		return monitor.Inherited(o.fd)
	}
	l, err := monitor.Listen(o.socket, group)
	return l, nil, err
}

// emitter sends events to all of a server's clients.
func emitter(s *qmp.Server) func(string, any) {
	return func(name string, data any) {
		e := qmp.Event{Name: name}
		if data != nil {
			e.Data, _ = json.Marshal(data) // of strings and numbers
		}
		_ = s.Emit(e) // the data are valid JSON
	}
}
