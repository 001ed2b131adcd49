// SPDX-License-Identifier: Apache-2.0

package qmp

import (
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

var errLong = fmt.Errorf("the monitor sent a message of more than %d MiB", MaxMessage>>20)

// messageReader reads JSON values of up to MaxMessage bytes, wherever their lines end: QEMU writes a message on one line, and on
// many where its monitor was made with -qmp-pretty or pretty=on.
type messageReader struct {
	in  capped
	src io.Reader // in, behind what a former decoder had read ahead
	dec *json.Decoder
}

func newMessageReader(r io.Reader) *messageReader {
	m := &messageReader{in: capped{r: r}}
	m.src = &m.in
	m.dec = json.NewDecoder(m.src)
	return m
}

// next returns the next message.
func (r *messageReader) next() (*message, error) {
	r.in.read = 0
	m := new(message)
	err := r.dec.Decode(m)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF): // within a message
		return nil, io.EOF
	case errors.Is(err, errLong), errors.Is(err, io.EOF):
		return nil, err
	case isSpeech(err):
		return nil, fmt.Errorf("the other side does not speak QMP: %w", err)
	}
	if r.in.read > keptBuffer { // the decoder keeps a buffer of the longest message
		r.src = io.MultiReader(r.dec.Buffered(), r.src)
		r.dec = json.NewDecoder(r.src)
	}
	return m, err
}

// keptBuffer is the length, in bytes, of a message whose buffer is kept for the next ones.
const keptBuffer = 64 << 10

// isSpeech reports whether err is about what was said, and not about the connection.
func isSpeech(err error) bool {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &kind)
}

// capped fails with errLong once MaxMessage bytes have been read since read was 0.
type capped struct {
	r    io.Reader
	read int
}

func (c *capped) Read(p []byte) (int, error) {
	if c.read > MaxMessage {
		return 0, errLong
	}
	n, err := c.r.Read(p)
	c.read += n
	return n, err
}

// readGreeting waits for the greeting, which is the first thing that a monitor says to a client; but a QEMU that is still
// at a command of its former client sends the answer to the new one.
func (c *Client) readGreeting(r *messageReader) error {
	var refused *wireError
	m, err := r.next()
	for err == nil && m.QMP == nil && (m.Return != nil || m.Error != nil || m.Event != "") {
		refused = m.Error
		m, err = r.next()
	}
	const notQMP = "(is it QEMU's human monitor or guest agent? give the socket of -qmp)"
	var syntax *json.SyntaxError
	var notObject *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF) && refused != nil:
		return fmt.Errorf("%w: the monitor does not serve this process: %s", ErrClosed, refused.Desc)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the monitor hung up without a greeting", ErrClosed)
	case errors.As(err, &syntax), errors.As(err, &notObject):
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
func (c *Client) read(r *messageReader) {
	for {
		m, err := r.next()
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
