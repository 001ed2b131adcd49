// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// message is anything a monitor sends.
type message struct {
	QMP       *wireGreeting   `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *wireError      `json:"error"`
	ID        json.RawMessage `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp wireTime        `json:"timestamp"`
}

type wireError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

var errLongLine = fmt.Errorf("the monitor sent a line of more than %d MiB", MaxLine>>20)

// lineReader reads lines up to MaxLine; memory for a long one is taken as it
// comes and given back after it.
type lineReader struct {
	r    *bufio.Reader
	long []byte
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 16<<10)}
}

// next returns the next line, which is valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	l.long = nil
	for {
		part, err := l.r.ReadSlice('\n')
		if err == nil && l.long == nil {
			return part, nil
		}
		if len(l.long)+len(part) > MaxLine {
			return nil, errLongLine
		}
		l.long = append(l.long, part...)
		if err == nil {
			return l.long, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func (l *lineReader) message() (*message, error) {
	line, err := l.next()
	if err != nil {
		return nil, err
	}
	m := new(message)
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("the other side does not speak QMP: %w", err)
	}
	return m, nil
}

// readGreeting waits for the greeting, which is the first thing that a monitor says to a client; but a QEMU that is still
// at a command of its former client sends the answer to the new one.
func (c *Client) readGreeting(r *lineReader) error {
	m, err := r.message()
	for err == nil && m.QMP == nil && (m.Return != nil || m.Error != nil || m.Event != "") {
		m, err = r.message()
	}
	const notQMP = "(is it QEMU's human monitor or guest agent? give the socket of -qmp)"
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the monitor hung up without a greeting", ErrClosed)
	case errors.As(err, &syntax):
		return fmt.Errorf("no greeting from the monitor: %w %s", err, notQMP)
	case err != nil:
		return fmt.Errorf("no greeting from the monitor: %w", err)
	case m.QMP == nil:
		return errors.New("no greeting from the monitor: the other side does not speak QMP " + notQMP)
	}
	v := m.QMP.Version
	c.greeting = Greeting{
		Major: v.QEMU.Major, Minor: v.QEMU.Minor, Micro: v.QEMU.Micro,
		Package: v.Package, Capabilities: m.QMP.Capabilities,
	}
	return nil
}

// read is the one reader: it hands out answers and events until the connection
// ends, and never waits for those that it hands them to.
func (c *Client) read(r *lineReader) {
	for {
		m, err := r.message()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("end of file; QEMU has ended or dropped the connection")
			}
			c.fail(fmt.Errorf("%w: the monitor went away: %w", ErrClosed, err))
			return
		}
		switch {
		case m.Event != "":
			c.publish(m)
		case m.Error != nil:
			c.answer(c.answered(m), reply{err: &Error{Class: m.Error.Class, Desc: m.Error.Desc}})
		case m.Return != nil:
			c.answer(c.answered(m), reply{result: m.Return})
		}
	}
}

// answered is the id of the command that m answers. An error without an id is
// the monitor's word on something that it could not parse (half a surrogate pair
// for instance); as commands are answered in order it is about the oldest.
func (c *Client) answered(m *message) uint64 {
	if len(m.ID) > 0 {
		id, err := strconv.ParseUint(string(m.ID), 10, 64)
		if err != nil {
			return 0 // not one of ours
		}
		return id
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var oldest uint64
	for id := range c.pending {
		if oldest == 0 || id < oldest {
			oldest = id
		}
	}
	return oldest
}
