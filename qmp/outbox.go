// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// outboxFull is how much may wait for a client before its own commands
	// wait until it reads.
	outboxFull = 1 << 20
	// outboxLimit is how much may wait before a client that does not read is
	// disconnected: events do not wait.
	outboxLimit = 64 << 20
	// flushTime is how long a session that ends tries to write what waits.
	flushTime = time.Second
)

var errDeaf = errors.New("the client does not read what it is sent")

// outbox writes to a connection in the order of its calls, without making those
// who have something to say wait for the client.
type outbox struct {
	conn *net.UnixConn

	mu     sync.Mutex
	change sync.Cond
	buf    []byte
	closed bool
	err    error
	done   chan struct{} // closed when the writer has ended
}

func newOutbox(conn *net.UnixConn) *outbox {
	o := &outbox{conn: conn, done: make(chan struct{})}
	o.change.L = &o.mu
	go o.write()
	return o
}

// put queues a line. It fails if the connection is broken or too much waits.
func (o *outbox) put(line []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil && len(o.buf)+len(line) > outboxLimit && len(o.buf) > 0 {
		o.err = errDeaf
		o.buf = nil
		o.conn.Close() // ends the writer and the session's reader
	}
	if o.err != nil || o.closed {
		return o.err
	}
	o.buf = append(o.buf, line...)
	o.change.Broadcast()
	return nil
}

// room waits until little waits to be written.
func (o *outbox) room() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) > outboxFull && o.err == nil && !o.closed {
		o.change.Wait()
	}
}

// close lets the writer finish what waits, for flushTime at most, and returns
// what went wrong with the outbox if anything did.
func (o *outbox) close() error {
	o.mu.Lock()
	o.closed = true
	o.change.Broadcast()
	o.mu.Unlock()
	o.conn.SetWriteDeadline(time.Now().Add(flushTime))
	<-o.done
	return o.err
}

func (o *outbox) write() {
	defer close(o.done)
	var spare []byte
	for {
		o.mu.Lock()
		for len(o.buf) == 0 && !o.closed && o.err == nil {
			o.change.Wait()
		}
		if o.err != nil || len(o.buf) == 0 {
			o.mu.Unlock()
			return
		}
		out := o.buf
		o.buf = spare[:0]
		o.change.Broadcast()
		o.mu.Unlock()

		_, err := o.conn.Write(out)
		if err != nil {
			o.mu.Lock()
			if o.err == nil { // else the limit closed the connection
				o.err = err
			}
			o.buf = nil
			o.change.Broadcast()
			o.mu.Unlock()
			return
		}
		if spare = out; cap(spare) > outboxFull {
			spare = nil
		}
	}
}
