// SPDX-License-Identifier: Apache-2.0

// Package attendant runs small processes that outlive the process which started them: if a save is killed, its guardian
// lets the guest go on. An attendant is the program itself, executed once more under the attendant's name, so no second
// program has to be installed. What an attendant does is a function of the room that needs one; what all have in common
// is here:
//
//	descriptor 0   orders, a JSON value a line; an empty line is a heartbeat. The end of the pipe without the order to leave means
//	               that the process which started the attendant is dead
//	descriptor 1   an empty line when the attendant is ready, then answers, a JSON value a line
//	descriptor 3…  the files that the starter passed
//
// An attendant has a session of its own, so that Ctrl-C does not reach it, one processor, and no environment. main
// calls Main first.
package attendant

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kind is a kind of attendant.
type Kind struct {
	Name string            // of its process: os.Args[0]
	Run  func(*Orders) int // what the process does, from start to end; the result is its exit status

	// Terminable attendants end by SIGINT, SIGTERM and SIGHUP as other programs do. The others ignore those.
	Terminable bool
}

// registered has the names of the kinds that Main knows. Only Main writes to it, before anything else runs.
var registered = map[string]bool{}

// Main has to be called at the beginning of main, before the program looks at its arguments. In a process that is an
// attendant of one of these kinds it does not return. In any other it makes Start of these kinds possible. It may be
// called several times, for other kinds.
func Main(kinds ...Kind) {
	for _, k := range kinds {
		if os.Args[0] == k.Name {
			os.Exit(k.run())
		}
		registered[k.Name] = true
	}
}

func (k Kind) run() int {
	ignored := []os.Signal{syscall.SIGPIPE, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
	if k.Terminable {
		ignored = ignored[:1]
	}
	signal.Ignore(ignored...)
	_ = unix.SetNonblock(0, true) // Orders.Close ends a read that is under way only in this mode
	pipe := os.NewFile(0, "orders")
	_, _ = os.Stdout.WriteString("\n")
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, maxOrder)
	return k.Run(&Orders{pipe, lines})
}

// maxOrder is the size in bytes up to which an attendant takes an order: nobody's orders are to use up its memory.
const maxOrder = 1 << 20

// FirstFile is the descriptor of the first file that Start passed.
const FirstFile = 3

// Orders are what an attendant is told. Next is for one goroutine at a time; Close may be called at any time.
type Orders struct {
	pipe  *os.File
	lines *bufio.Scanner
}

// Order is one order, as JSON; empty for a heartbeat.
type Order []byte

// ErrLeave is the order to end without doing anything more.
var ErrLeave = errors.New("the attendant is to leave")

var leave = []byte(`"leave"`)

// Next waits for the next order or heartbeat. At the end of the pipe the error is io.EOF.
func (o *Orders) Next() (Order, error) {
	if !o.lines.Scan() {
		if err := o.lines.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	if bytes.Equal(o.lines.Bytes(), leave) {
		return nil, ErrLeave
	}
	return bytes.Clone(o.lines.Bytes()), nil
}

// Close has orders that are still sent fail in the process that sends them.
func (o *Orders) Close() { o.pipe.Close() }

// Decode decodes an order. Numbers in values of type any keep all of their digits (json.Number).
func (o Order) Decode(v any) error {
	d := json.NewDecoder(bytes.NewReader(o))
	d.UseNumber()
	return d.Decode(v)
}

// Answer sends an answer to the process that started this one.
func Answer(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
