// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
)

// prefix starts every line of the guest program; other lines are the kernel's.
const prefix = "ramjet-guest: "

// console is a connection to a guest's serial console. It always reads, because
// a guest whose console nobody reads stops at the next line.
type console struct {
	conn *net.UnixConn
	peer int // pid of the process that listens, QEMU
	log  tail

	ready chan struct{} // closed when the guest said ready
	gone  chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	err     error // why gone is closed, or the guest's kernel panicked
	tag     uint64
	waiting map[uint64]chan string
	tick    uint64    // the last tick line's count
	ticked  time.Time // and when it came
	corrupt []string  // what the guest's watch found
}

// dialConsole connects to the socket at path as soon as somebody listens there.
// It gives up when ctx ends, or when exited (nil: never) is closed.
func dialConsole(ctx context.Context, path string, exited <-chan struct{}) (*console, error) {
	var conn net.Conn
	for {
		var err error
		if conn, err = (&net.Dialer{}).DialContext(ctx, "unix", path); err == nil {
			break
		}
		select {
		case <-exited:
			return nil, errors.New("QEMU ended before the guest's console could be reached")
		case <-ctx.Done():
			return nil, fmt.Errorf("reaching the guest's console: %w: %w", ctx.Err(), err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	c := &console{
		conn: conn.(*net.UnixConn), ready: make(chan struct{}), gone: make(chan struct{}),
		waiting: make(map[uint64]chan string),
		// Answers to what somebody asked before a snapshot may come after it
		// was restored. They must not be taken for answers to this connection.
		tag: rand.Uint64N(1<<40) << 20,
	}
	if cred, err := qmp.PeerCred(c.conn); err == nil {
		c.peer = int(cred.Pid)
	}
	go c.read()
	return c, nil
}

func (c *console) close() { c.conn.Close() }

func (c *console) transcript() string { return c.log.String() }

func (c *console) read() {
	lines := bufio.NewScanner(c.conn)
	for lines.Scan() {
		fmt.Fprintln(&c.log, lines.Text())
		c.line(strings.TrimRight(lines.Text(), "\r"))
	}
	c.mu.Lock()
	if c.err == nil {
		c.err = errors.New("the console's connection ended")
	}
	c.mu.Unlock()
	close(c.gone)
}

// line takes one line of the console apart.
func (c *console) line(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Contains(line, "Kernel panic") {
		c.err = fmt.Errorf("the guest's kernel: %s", line)
		c.conn.Close()
	}
	// A torn line of the kernel, or of before a restore, may stand before.
	_, line, ok := strings.Cut(line, prefix)
	if !ok {
		return
	}
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "ready":
		select {
		case <-c.ready:
		default:
			close(c.ready)
		}
	case "failed":
		c.err = fmt.Errorf("the guest: %s", rest)
		c.conn.Close()
	case "tick":
		c.tick, _ = strconv.ParseUint(rest, 10, 64)
		c.ticked = time.Now()
	case "corrupt":
		c.corrupt = append(c.corrupt, rest)
	default:
		tag, err := strconv.ParseUint(word, 10, 64)
		if answer := c.waiting[tag]; err == nil && answer != nil {
			answer <- rest
			delete(c.waiting, tag)
		}
	}
}

func (c *console) waitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.gone:
		return fmt.Errorf("the guest did not boot: %w", c.reason())
	case <-ctx.Done():
		return fmt.Errorf("the guest did not boot: %w", ctx.Err())
	}
}

func (c *console) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// waitAnswer pings until the guest answers. The first pings may fall on deaf
// ears: a QEMU that is about to load its state loses what it got before.
func (c *console) waitAnswer(ctx context.Context) error {
	for patience := 50 * time.Millisecond; ; patience = min(2*patience, time.Second) {
		attempt, cancel := context.WithTimeout(ctx, patience)
		_, err := c.ask(attempt, "ping")
		cancel()
		if err == nil || attempt.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the guest does not answer: %w", ctx.Err())
		}
	}
}

// ask sends one command and returns the answer's words after the tag.
func (c *console) ask(ctx context.Context, command string) (string, error) {
	answer := make(chan string, 1)
	c.mu.Lock()
	c.tag++
	tag := c.tag
	c.waiting[tag] = answer
	// The empty line ends what a former connection may have left half sent.
	c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, err := fmt.Fprintf(c.conn, "\n%d %s\n", tag, command)
	c.mu.Unlock()
	if err == nil {
		select {
		case s := <-answer:
			if why, failed := strings.CutPrefix(s, "error "); failed {
				return "", fmt.Errorf("the guest on %q: %s", command, why)
			}
			return s, nil
		case <-c.gone:
			err = c.reason()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	c.mu.Lock()
	delete(c.waiting, tag)
	c.mu.Unlock()
	return "", fmt.Errorf("no answer of the guest to %q: %w", command, err)
}
