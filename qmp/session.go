// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Session is a client's connection to a Server.
type Session struct {
	server *Server
	conn   *net.UnixConn
	out    *outbox
	queue  *queue
	fds    []int // received, for the command that is being read

	mu              sync.Mutex
	negotiated, oob bool
}

// ServeConn serves one client and closes its connection. It returns nil when the
// client has left, and when ctx has ended, after what there was to say to the
// client has been written, within a second.
func (s *Server) ServeConn(ctx context.Context, conn *net.UnixConn) error {
	in, err := newReceiver(conn)
	if err != nil {
		conn.Close()
		return err
	}
	ses := &Session{server: s, conn: conn, out: newOutbox(conn), queue: newQueue()}
	ses.greet()
	s.add(ses)
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	dispatched := make(chan struct{})
	go func() {
		defer close(dispatched)
		for r := ses.queue.pop(); r != nil; r = ses.queue.pop() {
			ses.serve(ctx, r)
		}
	}()

	err = ses.read(ctx, in)

	closeAll(ses.fds)
	for _, r := range ses.queue.close() {
		r.finish()
	}
	<-dispatched
	stop()
	s.remove(ses)
	if ses.out.close() == errDeaf {
		err = errDeaf
	}
	conn.Close()
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Session) greet() {
	caps := []string{}
	if !s.server.NoOOB {
		caps = append(caps, "oob")
	}
	var g struct {
		QMP wireGreeting `json:"QMP"`
	}
	g.QMP = wireGreeting{s.server.Greeting.Version(), caps}
	line, _ := appendAny(nil, g) // integers and strings cannot fail
	s.out.put(append(line, '\r', '\n'))
}

// read feeds what the client sends to the parser until the client leaves.
func (s *Session) read(ctx context.Context, in *receiver) error {
	p := newParser(func(v value, err *Error) { s.received(ctx, v, err) })
	for {
		data, fds, err := in.next()
		if err != nil {
			return err
		}
		if len(fds) > 0 {
			// As in QEMU, what comes replaces what has not been taken.
			closeAll(s.fds)
			s.fds = fds
		}
		p.feed(data)
	}
}

// received queues a command, or what cannot be one, or carries it out if it is
// out of band. It takes the descriptors that have come up to here along.
func (s *Session) received(ctx context.Context, v value, perr *Error) {
	r := newRequest(s, v, perr, s.fds)
	s.fds = nil
	switch {
	case r.looksOOB():
		s.serve(ctx, r)
	case s.oobEnabled():
		s.queue.push(r)
	default:
		s.queue.push(r)
		<-r.finished
	}
}

func (s *Session) oobEnabled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oob
}

func (s *Session) isNegotiated() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.negotiated
}

// serve carries out r and answers.
func (s *Session) serve(ctx context.Context, r *Request) {
	defer s.out.room() // the client's next command waits, not the server
	defer r.finish()
	if !r.looksOOB() {
		s.server.turn.Lock()
		defer s.server.turn.Unlock()
	}
	result, err := s.run(ctx, r)
	closeAll(r.fds)
	r.fds = nil
	s.out.put(r.answer(result, err))
	s.server.answered(r)
}

// Emit sends an event to this client only.
func (s *Session) Emit(e Event) error {
	line, err := eventLine(e)
	if err != nil {
		return err
	}
	s.emit(line)
	return nil
}

func (s *Session) emit(line []byte) {
	if s.isNegotiated() {
		s.out.put(line)
	}
}

func eventLine(e Event) ([]byte, error) {
	t := e.Time
	if t.IsZero() {
		t = time.Now()
	}
	w := struct {
		Timestamp wireTime `json:"timestamp"`
		Event     string   `json:"event"`
		Data      any      `json:"data,omitempty"`
	}{wireTime{t.Unix(), int64(t.Nanosecond() / 1000)}, e.Name, nil}
	if e.Data != nil {
		w.Data = e.Data
	}
	line, err := appendAny(nil, w)
	return append(line, '\r', '\n'), err
}
