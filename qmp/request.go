// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

// Request is a command that a Handler carries out.
type Request struct {
	// Name of the command.
	Name string
	// OOB says that it is being executed out of band.
	OOB bool
	// Session is the client's.
	Session *Session

	input    value
	mistake  *Error // instead of input: what the parser found wrong
	fds      []int
	after    []func()
	finished chan struct{}

	// Of the server's mutex:
	holds, answered bool // events wait until it is answered; it is
}

func newRequest(s *Session, v value, mistake *Error, fds []int) *Request {
	return &Request{Session: s, input: v, mistake: mistake, fds: fds, finished: make(chan struct{})}
}

// looksOOB is QEMU's qmp_is_oob: it decides on the way a command takes before
// anything else about it has been looked at.
func (r *Request) looksOOB() bool {
	return r.input.member("exec-oob") != nil && r.input.member("execute") == nil
}

// ID returns the client's id of the command, nil if it gave none.
func (r *Request) ID() json.RawMessage { return r.raw("id") }

// Arguments returns the arguments as JSON, nil if there were none. Handlers that
// know their arguments use Args.
func (r *Request) Arguments() json.RawMessage { return r.raw("arguments") }

func (r *Request) raw(member string) json.RawMessage {
	v := r.input.member(member)
	if v == nil {
		return nil
	}
	return appendValue(nil, v)
}

// TakeFile returns the first of the descriptors that came with the command and
// were not taken yet; it is the caller's from then on. Where there is none it
// returns QEMU's error for that.
func (r *Request) TakeFile() (*os.File, error) {
	if len(r.fds) == 0 {
		return nil, Errorf("No file descriptor supplied via SCM_RIGHTS")
	}
	fd := r.fds[0]
	r.fds = r.fds[1:]
	return os.NewFile(uintptr(fd), fmt.Sprintf("fd %d", fd)), nil
}

// TakeFiles returns all descriptors that are left.
func (r *Request) TakeFiles() []*os.File {
	var files []*os.File
	for len(r.fds) > 0 {
		f, _ := r.TakeFile()
		files = append(files, f)
	}
	return files
}

// AfterReply has f called once the command's answer is on its way to the client.
func (r *Request) AfterReply(f func()) { r.after = append(r.after, f) }

// HoldEvents has the events that are emitted from now on wait until the command is answered, for all clients: what comes of
// a command is told behind its answer. Any goroutine may call it, at any time; after the answer it does nothing.
func (r *Request) HoldEvents() {
	s := r.Session.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.answered && !r.holds {
		r.holds = true
		s.holding++
	}
}

// finish releases what the request holds and lets the reader go on.
func (r *Request) finish() {
	closeAll(r.fds)
	r.fds = nil
	for _, f := range r.after {
		f()
	}
	close(r.finished)
}

// run carries out a request up to its answer, in the order of qmp_dispatch.
func (s *Session) run(ctx context.Context, r *Request) (any, error) {
	if r.mistake != nil {
		return nil, r.mistake
	}
	if err := r.check(s.oobEnabled()); err != nil {
		return nil, err
	}
	cmd, ok := s.command(r.Name)
	if !ok && !s.isNegotiated() {
		return nil, &Error{CommandNotFound, "Expecting capabilities negotiation with 'qmp_capabilities'"}
	}
	if !ok {
		return nil, &Error{CommandNotFound, fmt.Sprintf("The command %s has not been found", r.Name)}
	}
	if r.OOB && !cmd.OOB {
		return nil, Errorf("The command %s does not support OOB", r.Name)
	}
	return cmd.Run(ctx, r)
}

// command looks up a command as far as the client may use it now.
func (s *Session) command(name string) (Command, bool) {
	if name == "qmp_capabilities" {
		return Command{Run: negotiate}, true
	}
	if !s.isNegotiated() {
		return Command{}, false
	}
	cmd, ok := s.server.Commands[name]
	if !ok && s.server.Fallback != nil {
		return Command{Run: s.server.Fallback, OOB: true}, true
	}
	return cmd, ok
}

// check is qmp_dispatch_check_obj: the members of a command and their types.
func (r *Request) check(oob bool) error {
	if r.input.kind != kindObject {
		return Errorf("QMP input must be a JSON object")
	}
	exec := ""
	for i, key := range r.input.keys {
		v := &r.input.list[i]
		switch {
		case key == "execute", key == "exec-oob" && oob:
			if v.kind != kindString {
				return Errorf("QMP input member '%s' must be a string", key)
			}
			if exec != "" {
				return Errorf("QMP input member '%s' clashes with '%s'", key, exec)
			}
			exec = key
			r.Name, r.OOB = v.str, key == "exec-oob"
		case key == "arguments":
			if v.kind != kindObject {
				return Errorf("QMP input member 'arguments' must be an object")
			}
		case key != "id":
			return Errorf("QMP input member '%s' is unexpected", key)
		}
	}
	if exec == "" {
		return Errorf("QMP input lacks member 'execute'")
	}
	return nil
}

// answer is the line that answers r. A result that cannot be marshalled is the
// handler's fault and reported as an error.
func (r *Request) answer(result any, err error) []byte {
	id := r.input.member("id")
	if err == nil {
		if result == nil {
			result = struct{}{}
		}
		line, merr := appendAny([]byte(`{"return": `), result)
		if merr == nil {
			if id != nil {
				line = appendValue(append(line, `, "id": `...), id)
			}
			return append(line, '}', '\r', '\n')
		}
		err = fmt.Errorf("result of %s: %w", r.Name, merr)
	}
	line := []byte{'{'}
	if id != nil {
		line = append(appendValue(append(line, `"id": `...), id), ", "...)
	}
	e := asError(err)
	line = appendString(append(line, `"error": {"class": `...), e.Class)
	line = appendString(append(line, `, "desc": `...), e.Desc)
	return append(line, '}', '}', '\r', '\n')
}
