// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/snapshot"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	socket    string
	fd        int
	vm        string
	memory    []string
	incoming  bool
	noSandbox bool
}

func (a *app) serve() *cobra.Command {
	var o serveFlags
	c := &cobra.Command{
		Use:   "serve [flags]",
		Short: "A QMP server with descriptor sets and file migration",
		Long: `Serve QEMU's monitor protocol: descriptor sets (add-fd, remove-fd, query-fdsets) and migration to and from
files in QEMU's mapped-ram format, with QEMU's own commands, texts, states and events.

The guest is memory of its own (--memory, or object-add), which a QEMU of machine type "none" with the same memory
can take over and give back. Files come as descriptors that clients pass; the file system is out of reach: serve gives
up access to it, and all system calls that it does not need, before it answers the first client. --no-sandbox
leaves it that, and allows migration to file:PATH.

The socket is open to its own user only.`,
		Example: `  ramjet serve --qmp /run/ramjet.qmp --memory ram0=4G
  ramjet serve --qmp /run/ramjet.qmp --memory ram0=4G --incoming`,
		Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runServe(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.socket, "qmp", "", "listen at `SOCKET`, which is made with mode 0600")
	f.IntVar(&o.fd, "qmp-fd", -1, "serve the inherited descriptor `N`, a Unix socket that listens or is connected")
	f.StringArrayVar(&o.memory, "memory", nil, "guest memory of its own, `NAME=SIZE` (repeatable)")
	f.BoolVar(&o.incoming, "incoming", false, "wait for migrate-incoming")
	f.BoolVar(&o.noSandbox, "no-sandbox", false, "keep access to the file system, and migrate to and from file:PATH too")
	return c
}

func (a *app) runServe(ctx context.Context, o serveFlags) (err error) {
	if (o.socket == "") == (o.fd < 0) {
		return usageError{errors.New("where to serve? Give a socket to make with --qmp, or an inherited one with --qmp-fd")}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	server := &qmp.Server{Greeting: monitor.Greeting(snapshot.VersionString())}
	m, err := newMonitor(o, server, end)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	l, conn, err := o.listen()
	if err != nil {
		return err
	}
	if !o.noSandbox {
		if missing := monitor.Sandbox(); missing != nil {
			a.log(missing.Error())
		}
	}
	err = monitor.Serve(ctx, server, l, conn)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, errQuit) {
		err = cause
	}
	return err
}

// errQuit ends serve because a client said quit.
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
