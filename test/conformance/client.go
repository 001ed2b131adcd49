// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// client is a connection that sends what it is told, right or wrong.
type client struct {
	conn     *net.UnixConn
	in       *bufio.Reader
	events   []string
	patience time.Duration // how long an answer may take
}

func newClient(c *net.UnixConn) *client {
	return &client{conn: c, in: bufio.NewReader(c), patience: patience}
}

// send sends bytes, with descriptors on the first.
func (c *client) send(b []byte, files ...*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err := c.conn.WriteMsgUnix(b, rights, nil)
	return err
}

// patience is how long an answer may take at most.
const patience = 20 * time.Second

// line reads one line, as it is.
func (c *client) line() (string, error) {
	c.conn.SetReadDeadline(time.Now().Add(c.patience))
	s, err := c.in.ReadString('\n')
	return strings.TrimSpace(s), err
}

// answer reads the next line that is not an event; those are kept.
func (c *client) answer() (map[string]any, error) {
	for {
		s, err := c.line()
		if err != nil {
			return nil, err
		}
		var m map[string]any
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		event, ok := m["event"]
		if _, again := m["QMP"]; again {
			continue // a QEMU that was connected to while it started may greet twice
		}
		if !ok {
			return m, nil
		}
		text := fmt.Sprint(event)
		if data, ok := m["data"].(map[string]any); ok {
			if event == "MIGRATION_PASS" && fmt.Sprint(data["pass"]) != "1" {
				continue // how often QEMU looks again depends on how long it took
			}
			b, _ := json.Marshal(data)
			text += string(b)
		}
		c.events = append(c.events, text)
	}
}

// execute runs a command with JSON arguments, "" for none.
func (c *client) execute(name, args string, files ...*os.File) (map[string]any, error) {
	if args != "" {
		args = `,"arguments":` + args
	}
	if err := c.send([]byte(fmt.Sprintf("{\"execute\":%q%s}\n", name, args)), files...); err != nil {
		return nil, err
	}
	return c.answer()
}
