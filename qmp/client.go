// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"

	"github.com/ramjet-vm/ramjet/internal/sys"
)

// MaxMessage is the longest message, in bytes, that a client takes from a monitor:
// the size that QEMU itself allows for one token. query-qmp-schema needs 200 KiB.
const MaxMessage = 64 << 20

// MaxFiles is how many descriptors one message carries at most. QEMU's character
// device receives 16 (TCP_MAX_FDS) and loses the rest.
const MaxFiles = 16

// Client is a connection to a monitor after the negotiation. All methods may be
// called by several goroutines at a time.
type Client struct {
	conn     clientConn
	greeting Greeting
	onEvent  func(Event) // may be nil

	sendq  chan *call    // to the one writer
	done   chan struct{} // closed when the connection is lost or closed
	oob    bool          // out-of-band execution is enabled
	fdTurn chan struct{} // with oob, full while a command with descriptors has no answer

	mu      sync.Mutex
	err     error // why done is closed
	lastID  uint64
	pending map[uint64]*call // sent, or being sent, and not answered
	subs    map[*subscription]struct{}
}

// call is one command on its way.
type call struct {
	cmd     string
	oob     bool
	args    json.RawMessage
	files   []int    // descriptors of ours, closed once sent
	request *Request // of a server's client, whose answer comes of this one; nil: none
	reply   chan reply
	release func() // called when it is answered or not sent
}

type reply struct {
	result json.RawMessage
	err    error
}

// command is a command as it is written to the monitor.
type command struct {
	Execute   string          `json:"execute,omitempty"`
	ExecOOB   string          `json:"exec-oob,omitempty"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	ID        uint64          `json:"id"`
}

func newClient(conn *net.UnixConn, calls *sys.Calls) *Client {
	return &Client{
		conn:   clientConn{conn, sys.Of(calls)},
		sendq:  make(chan *call),
		done:   make(chan struct{}),
		fdTurn: make(chan struct{}, 1),
		// Another number for each client: what QEMU answers late to a former one must not be taken for an answer to us.
		lastID:  rand.Uint64N(1<<40) << 10,
		pending: make(map[uint64]*call),
		subs:    make(map[*subscription]struct{}),
	}
}

// Execute runs a command and waits for its answer. args is marshalled to the
// command's arguments (nil: none), and the result unmarshalled into result (nil:
// dropped). files, at most MaxFiles, are passed along with the command's first
// byte; the caller keeps its own.
//
// The monitor's refusal is an *Error. When ctx ends Execute returns at once; a
// command that was sent by then is still carried out, and its answer is dropped.
// When the connection is lost the error wraps ErrClosed.
func (c *Client) Execute(ctx context.Context, cmd string, args, result any, files ...*os.File) error {
	return c.execute(ctx, &call{cmd: cmd}, args, result, files)
}

// ExecuteOOB is Execute out of band: the monitor carries the command out at
// once, next to the one it is at. It needs a Dialer with OOB set, and a command
// that allows it; anything else is the monitor's refusal.
func (c *Client) ExecuteOOB(ctx context.Context, cmd string, args, result any, files ...*os.File) error {
	return c.execute(ctx, &call{cmd: cmd, oob: true}, args, result, files)
}

// ExecuteFor is Execute for a request that a Server got and whose answer is made of this command's: the events that the monitor
// sends after its answer wait until r is answered, so that r's client gets both in the monitor's order. The client c is dialled with
// Server.Emit for Events.
func (c *Client) ExecuteFor(ctx context.Context, r *Request, cmd string, args, result any, files ...*os.File) error {
	return c.execute(ctx, &call{cmd: cmd, request: r}, args, result, files)
}

func (c *Client) execute(ctx context.Context, k *call, args, result any, files []*os.File) error {
	if err := c.submit(ctx, k, args, files); err != nil {
		return err
	}
	return c.wait(ctx, k, result)
}

// Send is the first half of Execute: when it returns without an error the command is on its way, before all that are sent
// later, and will be carried out. The second half is the function that it returns, which waits for the answer; it need
// not be called. After an error the command was not sent.
func (c *Client) Send(ctx context.Context, cmd string, args any) (answer func(ctx context.Context, result any) error, err error) {
	k := &call{cmd: cmd}
	if err := c.submit(ctx, k, args, nil); err != nil {
		return nil, err
	}
	return func(ctx context.Context, result any) error { return c.wait(ctx, k, result) }, nil
}

// wait is for the answer to a command that was submitted.
func (c *Client) wait(ctx context.Context, k *call, result any) error {
	cmd := k.cmd
	select {
	case r := <-k.reply:
		return finish(cmd, r, result)
	case <-ctx.Done():
		return fmt.Errorf("no answer to %s yet: %w", cmd, context.Cause(ctx))
	case <-c.done:
	}
	// The answer may have come just before the connection ended (quit).
	select {
	case r := <-k.reply:
		return finish(cmd, r, result)
	default:
		return fmt.Errorf("%s: %w", cmd, c.closedErr())
	}
}

// submit hands the call to the writer. After an error it was not sent.
func (c *Client) submit(ctx context.Context, k *call, args any, files []*os.File) (err error) {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s was not sent: %w", k.cmd, err)
	}
	k.reply, k.release = make(chan reply, 1), func() {}
	if args != nil {
		if k.args, err = json.Marshal(args); err != nil {
			return fmt.Errorf("arguments of %s: %w", k.cmd, err)
		}
	}
	// The writer sends duplicates, because the caller may close its files as
	// soon as a cancelled Execute returns, while the writer is still at it.
	if k.files, err = dupAll(files); err != nil {
		return fmt.Errorf("descriptors for %s: %w", k.cmd, err)
	}
	defer func() {
		if err != nil {
			closeAll(k.files)
			k.release()
		}
	}()
	if c.oob && len(files) > 0 {
		// QEMU now reads ahead of the command it is at, and would let these
		// descriptors replace those of a command that is still queued.
		select {
		case c.fdTurn <- struct{}{}:
			k.release = func() { <-c.fdTurn }
		case <-ctx.Done():
			return fmt.Errorf("%s was not sent: %w", k.cmd, context.Cause(ctx))
		case <-c.done:
			return fmt.Errorf("%s: %w", k.cmd, c.closedErr())
		}
	}
	select {
	case c.sendq <- k:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s was not sent: %w", k.cmd, context.Cause(ctx))
	case <-c.done:
		return fmt.Errorf("%s: %w", k.cmd, c.closedErr())
	}
}

func finish(cmd string, r reply, result any) error {
	if r.err != nil {
		return r.err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("unexpected answer to %s: %w", cmd, err)
	}
	return nil
}

// Greeting is what the monitor said first.
func (c *Client) Greeting() Greeting { return c.greeting }

// Close ends the connection. Commands without an answer, and all later ones,
// fail with an error that wraps ErrClosed; subscriptions are closed.
func (c *Client) Close() error {
	c.fail(fmt.Errorf("%w by this side", ErrClosed))
	return nil
}

// Done is closed when the connection is lost or closed.
func (c *Client) Done() <-chan struct{} { return c.done }

// fail ends the connection for the reason err; the first reason stays.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.conn.Close()
	for s := range c.subs {
		if s.call == nil {
			close(s.ch)
		}
	}
	clear(c.subs)
	clear(c.pending)
}

func (c *Client) closedErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// write is the one writer. It outlives cancelled calls, so that half a command
// never stays on the wire.
func (c *Client) write() {
	for {
		select {
		case k := <-c.sendq:
			if err := c.send(k); err != nil {
				c.fail(fmt.Errorf("%w: the monitor went away: %w", ErrClosed, err))
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *Client) send(k *call) error {
	defer closeAll(k.files)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	c.lastID++
	id := c.lastID
	c.pending[id] = k
	c.mu.Unlock()

	msg := command{Execute: k.cmd, Arguments: k.args, ID: id}
	if k.oob {
		msg.Execute, msg.ExecOOB = "", k.cmd
	}
	b, err := json.Marshal(msg)
	if err != nil {
		c.answer(id, reply{err: fmt.Errorf("command %s: %w", k.cmd, err)})
		return nil
	}
	return c.conn.send(append(b, '\r', '\n'), k.files)
}

// answer hands r to the caller of command id, if it is still known.
func (c *Client) answer(id uint64, r reply) {
	c.mu.Lock()
	k := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if k == nil {
		return
	}
	if k.request != nil {
		k.request.HoldEvents()
	}
	k.release()
	k.reply <- r
}
