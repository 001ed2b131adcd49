// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
)

// MaxLine is the longest line, in bytes, that a client takes from a monitor:
// the size that QEMU itself allows for one token. query-qmp-schema needs 200 KiB.
const MaxLine = 64 << 20

// MaxFiles is how many descriptors one message carries at most. QEMU's character
// device receives 16 (TCP_MAX_FDS) and loses the rest.
const MaxFiles = 16

// Client is a connection to a monitor after the negotiation. All methods may be
// called by several goroutines at a time.
type Client struct {
	conn     *net.UnixConn
	greeting Greeting

	sendq chan *call    // to the one writer
	done  chan struct{} // closed when the connection is lost or closed

	mu      sync.Mutex
	err     error // why done is closed
	lastID  uint64
	pending map[uint64]*call // sent, or being sent, and not answered
	subs    map[*subscription]struct{}
}

// call is one command on its way.
type call struct {
	cmd   string
	args  json.RawMessage
	files []int // descriptors of ours, closed once sent
	reply chan reply
}

type reply struct {
	result json.RawMessage
	err    error
}

// command is a command as it is written to the monitor.
type command struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	ID        uint64          `json:"id"`
}

func newClient(conn *net.UnixConn) *Client {
	return &Client{
		conn:    conn,
		sendq:   make(chan *call),
		done:    make(chan struct{}),
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
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s was not sent: %w", cmd, err)
	}
	k := &call{cmd: cmd, reply: make(chan reply, 1)}
	if args != nil {
		b, err := json.Marshal(args)
		if err != nil {
			return fmt.Errorf("arguments of %s: %w", cmd, err)
		}
		k.args = b
	}
	// The writer sends duplicates, because the caller may close its files as
	// soon as a cancelled Execute returns, while the writer is still at it.
	fds, err := dupAll(files)
	if err != nil {
		return fmt.Errorf("descriptors for %s: %w", cmd, err)
	}
	k.files = fds

	select {
	case c.sendq <- k:
	case <-ctx.Done():
		closeAll(k.files)
		return fmt.Errorf("%s was not sent: %w", cmd, ctx.Err())
	case <-c.done:
		closeAll(k.files)
		return fmt.Errorf("%s: %w", cmd, c.closedErr())
	}

	select {
	case r := <-k.reply:
		return finish(cmd, r, result)
	case <-ctx.Done():
		return fmt.Errorf("no answer to %s yet: %w", cmd, ctx.Err())
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
		close(s.ch)
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

	b, err := json.Marshal(command{Execute: k.cmd, Arguments: k.args, ID: id})
	if err != nil {
		c.answer(id, reply{err: fmt.Errorf("command %s: %w", k.cmd, err)})
		return nil
	}
	return sendWithFDs(c.conn, append(b, '\r', '\n'), k.files)
}

// answer hands r to the caller of command id, if it is still known.
func (c *Client) answer(id uint64, r reply) {
	c.mu.Lock()
	k := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if k != nil {
		k.reply <- r
	}
}
