// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Server is a monitor. Its fields must not be changed while it serves.
//
// It serves any number of clients at a time (a QEMU: one per socket). Commands of
// all clients are carried out one at a time, as a QEMU's main loop does, except
// those out of band. Every client that has negotiated gets every event.
type Server struct {
	// Greeting is what clients are told on connecting; Capabilities is not
	// used, see NoOOB.
	Greeting Greeting
	// NoOOB withholds the capability "oob".
	NoOOB bool
	// Commands by name; qmp_capabilities is built in.
	Commands map[string]Command
	// Fallback, if not nil, gets every command that is not in Commands.
	Fallback Handler
	// Allow, if not nil, is asked by Serve about each client (PeerCred,
	// PeerGroups); with an error the client is told it and kept out.
	Allow func(*net.UnixConn) error
	// MaxSessions is how many clients Serve serves at a time, further ones
	// wait; 0 is 64.
	MaxSessions int

	turn sync.Mutex // held while an in-band command is carried out

	mu       sync.Mutex
	sessions map[*Session]struct{}
	holding  int      // requests that events wait for
	waiting  [][]byte // the events' lines
}

// Handler carries out a command. The result is what encoding/json makes of it,
// and an empty object for nil; a json.RawMessage is sent as it is. An *Error is
// sent with its class, any other error as a GenericError with its text.
//
// ctx ends when the server does, not when the client goes away: a command that
// has begun is finished, as in QEMU.
type Handler func(ctx context.Context, r *Request) (result any, err error)

// Command is an entry of the server's table.
type Command struct {
	Run Handler
	// OOB allows out-of-band execution, next to an in-band command. Run must be
	// quick then: nothing else is read from the client meanwhile.
	OOB bool
}

// Serve accepts clients from l until ctx ends, closes l, and returns when the
// last client is gone.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	limit := s.MaxSessions
	if limit <= 0 {
		limit = 64
	}
	slots := make(chan struct{}, limit)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			<-slots
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
				pause(ctx, 50*time.Millisecond)
				continue
			}
			return err
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			if err := s.allowed(conn); err != nil {
				Refuse(conn, err)
				return
			}
			s.ServeConn(ctx, conn)
		}()
	}
}

func (s *Server) allowed(conn *net.UnixConn) error {
	if s.Allow == nil {
		return nil
	}
	return s.Allow(conn)
}

// Refuse tells a client, instead of a greeting, why it is not served, and closes its connection.
func Refuse(conn *net.UnixConn, why error) {
	conn.SetWriteDeadline(time.Now().Add(flushTime))
	conn.Write(new(Request).answer(nil, why))
	conn.Close()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Emit sends an event to all clients. It never waits for a client; one that has
// not read 64 MiB is disconnected. A zero Time is now. Clients get events in the
// order of the calls; Request.HoldEvents puts them behind an answer.
func (s *Server) Emit(e Event) error {
	line, err := eventLine(e)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holding > 0 {
		s.waiting = append(s.waiting, line)
		if len(s.waiting) < maxWaiting {
			return nil
		}
		s.tell(s.waiting) // rather out of order than without bounds
		s.waiting = nil
		return nil
	}
	s.tell([][]byte{line})
	return nil
}

// maxWaiting is how many events wait at most for an answer that does not come.
const maxWaiting = 4096

// tell sends events' lines to all clients, with s.mu held.
func (s *Server) tell(lines [][]byte) {
	for _, line := range lines {
		for ses := range s.sessions {
			ses.emit(line)
		}
	}
}

// answered lets go the events that wait for the answer to r, which is in its client's outbox.
func (s *Server) answered(r *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.answered = true
	if !r.holds {
		return
	}
	if s.holding--; s.holding == 0 {
		s.tell(s.waiting)
		s.waiting = nil
	}
}

func (s *Server) add(ses *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions == nil {
		s.sessions = make(map[*Session]struct{})
	}
	s.sessions[ses] = struct{}{}
}

func (s *Server) remove(ses *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ses)
}
