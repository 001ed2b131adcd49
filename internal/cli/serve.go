// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/proxy"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/snapshot"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	socket    string
	fd        int
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
		Short: "A QMP server with descriptor sets and file migration",
		Long: `Serve QEMU's monitor protocol: descriptor sets (add-fd, remove-fd, query-fdsets) and migration to and from
files in QEMU's mapped-ram format, with QEMU's own commands, texts, states and events.

With --vm it is the monitor of a running QEMU: everything is passed on both ways, except that migrations to and from
mapped-ram files are done by Ramjet. Otherwise the guest is memory of its own (--memory, or object-add), which a QEMU of machine type "none" with the same memory
can take over and give back. Files come as descriptors that clients pass; the file system is out of reach: serve gives
up access to it, and all system calls that it does not need, before it answers the first client. --no-sandbox
leaves it that, and allows migration to file:PATH.

The socket is open to its own user only.`,
		Example: `  ramjet serve --qmp /run/ramjet.qmp --memory ram0=4G
  ramjet serve --qmp /run/ramjet.qmp --memory ram0=4G --incoming
  ramjet serve --qmp /run/vm1-safe.qmp --vm /run/vm1.qmp --metrics 127.0.0.1:9105`,
		Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.runServe(c.Context(), o); err != nil || !a.json {
				return err
			}
			return a.print(map[string]float64{"seconds": time.Since(began).Seconds()}, "")
		},
	}
	f := c.Flags()
	f.StringVar(&o.socket, "qmp", "", "listen at `SOCKET`, which is made with mode 0600")
	f.IntVar(&o.fd, "qmp-fd", -1, "serve the inherited descriptor `N`, a Unix socket that listens or is connected")
	f.StringVar(&o.vm, "vm", "", "be the monitor of the QEMU whose QMP socket is `SOCKET`")
	f.IntVar(&o.pid, "pid", 0, "QEMU's process `PID`, where the socket of --vm cannot tell")
	f.StringArrayVar(&o.memory, "memory", nil, "guest memory of its own, `NAME=SIZE` (repeatable)")
	f.BoolVar(&o.incoming, "incoming", false, "wait for migrate-incoming")
	f.BoolVar(&o.noSandbox, "no-sandbox", false, "keep access to the file system, and migrate to and from file:PATH too")
	f.StringVar(&o.metrics, "metrics", "", "serve Prometheus' metrics over HTTP at `ADDR`: HOST:PORT, or the path of a socket to make")
	return c
}

func (o serveFlags) check() error {
	switch {
	case (o.socket == "") == (o.fd < 0):
		return errors.New("where to serve? Give a socket to make with --qmp, or an inherited one with --qmp-fd")
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
	if err := o.check(); err != nil {
		return usageError{err}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	server := &qmp.Server{Greeting: monitor.Greeting(snapshot.VersionString())}
	b, err := o.backend(ctx, server, end)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	l, conn, err := o.listen()
	if err == nil {
		err = a.watch(ctx, o.metrics, server)
	}
	if err != nil {
		return err
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
	err = monitor.Serve(ctx, server, l, conn)
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
	m.observe(s, a.event)
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
func (o serveFlags) backend(ctx context.Context, s *qmp.Server, end context.CancelCauseFunc) (backend, error) {
	if o.vm == "" {
		return newMonitor(o, s, end)
	}
	p, err := proxy.New(ctx, s, proxy.Options{Socket: o.vm, PID: o.pid, Paths: o.noSandbox})
	if err != nil {
		return nil, err
	}
	go func() {
		<-p.Gone()
		end(errQuit)
	}()
	return p, nil
}

// errQuit ends serve because a client said quit, or the QEMU is gone.
var errQuit = errors.New("quit")

// newMonitor makes the guest and the server's commands.
func newMonitor(o serveFlags, server *qmp.Server, end context.CancelCauseFunc) (*monitor.Monitor, error) {
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

func (o serveFlags) listen() (*net.UnixListener, *net.UnixConn, error) {
	if o.fd >= 0 {
		return monitor.Inherited(o.fd)
	}
	l, err := monitor.Listen(o.socket)
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
