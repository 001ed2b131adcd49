// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// GreetingTimeout is how long Dial and NewClient wait for a monitor's greeting
// before they call it busy. An idle QEMU greets within a millisecond; one that
// is in the middle of a long command, or loading a migration, does not.
const GreetingTimeout = 3 * time.Second

// Greeting is what a monitor says first.
type Greeting struct {
	// Version of the QEMU, 10.0.2 for example.
	Major, Minor, Micro int
	// Package is the distribution's addition to the version, often empty.
	Package string
	// Capabilities that can be enabled: "oob" or nothing.
	Capabilities []string
}

// Version is the version in the form of query-version.
func (g Greeting) Version() VersionInfo {
	return VersionInfo{VersionTriple{g.Micro, g.Minor, g.Major}, g.Package}
}

// VersionInfo is the schema's type of that name.
type VersionInfo struct {
	QEMU    VersionTriple `json:"qemu"`
	Package string        `json:"package"`
}

// VersionTriple is the schema's type of that name.
type VersionTriple struct {
	Micro int `json:"micro"`
	Minor int `json:"minor"`
	Major int `json:"major"`
}

type wireGreeting struct {
	Version      VersionInfo `json:"version"`
	Capabilities []string    `json:"capabilities"`
}

// Dialer connects clients. The zero Dialer is what Dial and NewClient use.
type Dialer struct {
	// GreetingTimeout replaces the constant of that name if it is not 0.
	GreetingTimeout time.Duration
	// OOB enables out-of-band execution where the monitor offers it.
	OOB bool
	// Events, if not nil, is called with every event, in its place: before
	// anything that the monitor said after it is handed out. It must return
	// soon and must not call the client.
	Events func(Event)
	Calls  *sys.Calls // nil: the kernel's
}

// Dial connects to the monitor that listens at path and negotiates, without
// enabling out-of-band execution. If the connection is accepted and no greeting
// comes the error is a *BusyError.
func Dial(ctx context.Context, path string) (*Client, error) {
	return Dialer{}.Dial(ctx, path)
}

// NewClient negotiates over a connected socket, one end of a socketpair for
// example, and owns it from then on: an error closes it.
func NewClient(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	return Dialer{}.NewClient(ctx, conn)
}

// Dial is the function Dial with d's settings.
func (d Dialer) Dial(ctx context.Context, path string) (*Client, error) {
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, dialError(path, err)
	}
	c, err := d.negotiate(ctx, conn.(*net.UnixConn), path)
	var busy *BusyError
	if err != nil && !errors.As(err, &busy) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, err
}

// NewClient is the function NewClient with d's settings.
func (d Dialer) NewClient(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	return d.negotiate(ctx, conn, "")
}

// dialError says what a failure of connect(2) on a Unix socket means here.
func dialError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("there is no monitor socket at %s: start QEMU with -qmp unix:%s,server=on,wait=off, or check the path: %w", path, path, syscall.ENOENT)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens on %s: the QEMU that made this socket has ended, or it is no socket: %w", path, syscall.ECONNREFUSED)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("no permission to connect to the monitor at %s: run as the user that runs QEMU, or as root: %w", path, syscall.EACCES)
	case errors.Is(err, syscall.EAGAIN):
		// A full accept queue: QEMU listens with a backlog of 1.
		return &BusyError{Path: path}
	case errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Errorf("%s is a socket of another type than a monitor's: %w", path, syscall.EPROTOTYPE)
	case errors.Is(err, syscall.EINVAL) && len(path) > maxSocketPath:
		return fmt.Errorf("the path of the monitor socket has %d bytes, Linux allows %d: use a shorter or a relative one: %s", len(path), maxSocketPath, path)
	}
	return fmt.Errorf("cannot connect to the monitor at %s: %w", path, err)
}

// maxSocketPath is sizeof(sun_path) less the final zero.
const maxSocketPath = 107

func (d Dialer) negotiate(ctx context.Context, conn *net.UnixConn, path string) (*Client, error) {
	wait := d.GreetingTimeout
	if wait == 0 {
		wait = GreetingTimeout
	}
	c := newClient(conn, d.Calls)
	c.onEvent = d.Events
	greeted := make(chan error, 1)
	r := newMessageReader(c.conn)
	go func() { greeted <- c.readGreeting(r) }()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case err = <-greeted:
	case <-timer.C:
		busy := &BusyError{Path: path, Waited: wait}
		if cred, cerr := PeerCred(conn); cerr == nil {
			busy.PID = int(cred.Pid)
		}
		err = busy
	case <-ctx.Done():
		err = fmt.Errorf("waiting for the monitor's greeting: %w", context.Cause(ctx))
	}
	if err != nil {
		conn.Close() // which also ends readGreeting
		return nil, err
	}

	go c.read(r)
	go c.write()
	var args any
	c.oob = d.OOB && slices.Contains(c.greeting.Capabilities, "oob")
	if c.oob {
		args = map[string][]string{"enable": {"oob"}}
	}
	if err := c.Execute(ctx, "qmp_capabilities", args, nil); err != nil {
		c.Close()
		return nil, fmt.Errorf("negotiating with the monitor: %w", err)
	}
	return c, nil
}
