// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// lastMonitor is the guardian's client of a monitor whose owner died at any point, even within a line, and did not read
// the last answers.
type lastMonitor struct {
	f        *os.File
	in       *bufio.Reader
	id       int       // of the last command
	shared   bool      // the owner lives, and may wake up and read answers to the guardian: commands are sent again then
	deadline time.Time // for everything
}

// rescueTimeout is how long the guardian keeps trying: a QEMU that hangs for minutes, because its disk does, is to find
// the command cont when it wakes up.
const rescueTimeout = 10 * time.Minute

// convergeTimeout is how long a migration whose owner is dead may go on while the guest runs.
const convergeTimeout = 10 * time.Second

func newLastMonitor(f *os.File, shared bool) *lastMonitor {
	m := &lastMonitor{f: f, in: bufio.NewReader(f), shared: shared, deadline: time.Now().Add(rescueTimeout)}
	_ = f.SetDeadline(m.deadline)
	return m
}

// rescue follows the guardian's orders.
func (m *lastMonitor) rescue(o guardianOrders) {
	for _, c := range o.Hurry {
		m.execute(c.Execute, c.Arguments)
	}
	cont := func() {
		if o.Cont {
			m.insist(Command{Execute: "cont"})
		}
	}
	cont()
	if len(o.Hurry) > 0 {
		m.endMigration(o.Cont)
		cont() // a migration stops the guest at its end
	}
	for _, c := range o.Undo {
		m.insist(c)
	}
	for _, s := range o.Sets {
		m.execute("remove-fd", map[string]any{"fdset-id": s})
	}
}

// insist repeats a command until QEMU carries it out: it refuses many while it cleans up a cancelled migration.
func (m *lastMonitor) insist(c Command) {
	for time.Now().Before(m.deadline) {
		if _, err := m.execute(c.Execute, c.Arguments); err == nil || err == errGone {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// endMigration waits for the end of the migration. One of a running and busy guest may never end by itself, so the
// guest is stopped then.
func (m *lastMonitor) endMigration(running bool) {
	stopAt := time.Now().Add(convergeTimeout)
	for time.Now().Before(m.deadline) {
		if instances, err := m.execute("query-yank", nil); err != nil || !migrating(instances) {
			return
		}
		if running && time.Now().After(stopAt) {
			running = false
			m.execute("stop", nil)
		}
		time.Sleep(time.Millisecond)
	}
}

// errGone means that QEMU has ended, or has not answered before the deadline.
var errGone = errors.New("the monitor is gone")

// execute sends a command and waits for the answer to it. The byte 0xFF before the command makes QEMU's parser drop a
// line that the dead owner did not finish (json_message_process_token).
func (m *lastMonitor) execute(cmd string, args any) (json.RawMessage, error) {
	m.id++
	id := fmt.Sprintf("%s-%d", guardianName, m.id)
	line := map[string]any{"execute": cmd, "id": id}
	if args != nil {
		line["arguments"] = args
	}
	b, err := json.Marshal(line)
	if err != nil {
		return nil, err
	}
	b = append(append([]byte{0xff}, b...), '\n')
	tries := 1
	if m.shared {
		tries = 4
	}
	for {
		if _, err := m.f.Write(b); err != nil {
			return nil, errGone
		}
		tries--
		if tries > 0 {
			_ = m.f.SetReadDeadline(time.Now().Add(2 * time.Second))
		} else {
			_ = m.f.SetReadDeadline(m.deadline)
		}
		result, err := m.answer(id)
		if !errors.Is(err, os.ErrDeadlineExceeded) || tries == 0 {
			return result, err
		}
	}
}

// answer waits for the answer to the command id.
func (m *lastMonitor) answer(id string) (json.RawMessage, error) {
	for {
		b, err := m.message()
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(m.deadline) {
			return nil, err
		}
		if err != nil {
			return nil, errGone
		}
		var r struct {
			ID     any
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if json.Unmarshal(bytes.TrimSpace(b), &r) != nil || r.ID != id {
			continue
		}
		if r.Error != nil {
			return nil, errors.New(r.Error.Desc)
		}
		return r.Return, nil
	}
}

// message reads the next message. The first bytes read may be anywhere inside a message, so messages are put together
// from lines: the first line begins with a brace, and so does the last of a message on many lines, whose others are
// indented (-qmp-pretty).
func (m *lastMonitor) message() ([]byte, error) {
	var all []byte
	for {
		b, err := m.in.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if b[0] == '{' {
			all = all[:0]
		}
		all = append(all, b...)
		if (b[0] == '{' || b[0] == '}') && json.Valid(all) {
			return all, nil
		}
		if b[0] == '}' || len(all) > maxLastMessage {
			all = all[:0]
		}
	}
}

// maxLastMessage is the size in bytes up to which a message is kept. The answers that the guardian waits for are short.
const maxLastMessage = 1 << 20
