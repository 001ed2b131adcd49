// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// A guardian is a small process that holds a duplicate of the monitor connection (QEMU serves one client per
// socket, so it must be the same one). It reads orders from a pipe. When the pipe closes without
// leave to go - this process was killed - it lets the VM go on, takes our descriptor sets away
// and removes the unfinished file.
//
// It is this program itself under another name, so any program that links the package can have one.
type Guardian struct {
	cmd    *exec.Cmd
	orders *os.File
}

// Orders tell a guardian what to do if we die now.
type Orders struct {
	Cont  bool      `json:"cont,omitempty"`  // the VM was running: let it go on
	Hurry []Command `json:"hurry,omitempty"` // QEMU migrates on our behalf: this brings it to its end (Migration.Hurry)
	Sets  []int64   `json:"sets,omitempty"`  // descriptor sets to remove
	Files []string  `json:"files,omitempty"` // unfinished files to remove
	Undo  []Command `json:"undo,omitempty"`  // of what we set in the VM
	Leave bool      `json:"leave,omitempty"` // all is well: end
}

const guardianName = "ramjet-guardian"

func init() {
	if os.Args[0] == guardianName {
		os.Exit(guard())
	}
}

// StartGuardian starts one and returns when it stands by. It has no orders yet.
func (vm *VM) StartGuardian() (*Guardian, error) {
	conn, err := vm.Monitor.File()
	if err != nil {
		return nil, fmt.Errorf("cannot start the guardian process: %w", err)
	}
	defer conn.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start the guardian process: %w", err)
	}
	defer in.Close()
	g := &Guardian{orders: out}
	g.cmd = exec.Command("/proc/self/exe")
	g.cmd.Args = []string{guardianName}
	g.cmd.Stdin = in
	g.cmd.ExtraFiles = []*os.File{conn}
	g.cmd.Env = []string{"GOMAXPROCS=1"}
	// A Ctrl-C on the terminal goes to the whole foreground group; it is meant for us, not for the guardian.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	ready, err := g.cmd.StdoutPipe()
	if err == nil {
		if err = g.cmd.Start(); err == nil {
			_, err = io.ReadFull(ready, make([]byte, 1))
		}
	}
	if err != nil {
		g.orders.Close()
		return nil, fmt.Errorf("cannot start the guardian process: %w", err)
	}
	return g, nil
}

// Order replaces its orders. It returns an error if the guardian is gone.
func (g *Guardian) Order(o Orders) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := g.orders.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("the guardian process is gone: %w", err)
	}
	return nil
}

// Close lets the guardian go and waits for it.
func (g *Guardian) Close() error {
	err := g.Order(Orders{Leave: true})
	g.orders.Close()
	return errors.Join(err, g.cmd.Wait())
}

// Abandon has the guardian follow its orders, as if this process had been killed, and waits a moment for it. Until it is done it
// goes on trying, whatever becomes of us. Our own connection to the monitor has to be closed: the guardian reads
// from the same.
func (g *Guardian) Abandon(wait time.Duration) {
	g.orders.Close()
	done := make(chan struct{})
	go func() { g.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(wait):
	}
}

// guard is the guardian's whole life.
func guard() int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	os.Stdout.Write([]byte{'.'})
	os.Stdout.Close()
	var o Orders
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var next Orders
		if json.Unmarshal(lines.Bytes(), &next) == nil {
			o = next
		}
	}
	if o.Leave {
		return 0
	}
	for _, f := range o.Files {
		os.Remove(f)
	}
	m := &lastMonitor{f: os.NewFile(3, "monitor")}
	m.in = bufio.NewReader(m.f)
	m.rescue(o)
	return 0
}

// lastMonitor speaks QMP on a connection whose owner died at any point, even within a line, and whose last answers may
// not have been read.
type lastMonitor struct {
	f  *os.File
	in *bufio.Reader
	id int
}

// patience is how long the guardian keeps trying: a QEMU that hangs for minutes, because its disk does, is to find the order to
// go on when it wakes up.
const patience = 10 * time.Minute

// converge is how long a migration whose owner is dead may go on while the guest runs.
const converge = 10 * time.Second

func (m *lastMonitor) rescue(o Orders) {
	deadline := time.Now().Add(patience)
	_ = m.f.SetDeadline(deadline)
	for _, c := range o.Hurry {
		m.execute(c.Execute, c.Arguments)
	}
	// Much is refused while a cancelled migration is still being cleaned up.
	insist := func(c Command) {
		for time.Now().Before(deadline) {
			if _, err := m.execute(c.Execute, c.Arguments); err == nil || err == errGone {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	cont := func() {
		if o.Cont {
			insist(Command{Execute: "cont"})
		}
	}
	cont()
	if len(o.Hurry) > 0 {
		// A migration that goes on while the guest runs stops it at its end, and may not come to one if the guest is busy.
		began, slow := time.Now(), true
		for time.Now().Before(deadline) {
			if instances, err := m.execute("query-yank", nil); err != nil || !migrating(instances) {
				break
			}
			if slow && o.Cont && time.Since(began) > converge {
				slow = false
				m.execute("stop", nil)
			}
			time.Sleep(time.Millisecond)
		}
		cont()
	}
	for _, c := range o.Undo {
		insist(c)
	}
	for _, s := range o.Sets {
		m.execute("remove-fd", map[string]any{"fdset-id": s})
	}
}

// errGone: QEMU has ended, or does not answer before the guardian's patience is at an end.
var errGone = errors.New("the monitor is gone")

// execute sends a command and waits for its own answer. The 0xFF before it throws away what the dead owner may have
// left unfinished in QEMU's parser (json_message_process_token).
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
	if _, err := m.f.Write(append(append([]byte{0xff}, b...), '\n')); err != nil {
		return nil, errGone
	}
	for {
		b, err := m.message()
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

// message reads the next message. The connection may begin anywhere in one, so what it is made of are lines: the first begins
// with a brace, and so does the last of a message on many lines, whose others are indented (-qmp-pretty).
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

// maxLastMessage bounds, in bytes, what the guardian keeps of one message; the answers it waits for are short.
const maxLastMessage = 1 << 20
