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
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A guardian is a small process that holds a duplicate of the monitor connection (QEMU serves one client per
// socket, so it must be the same one). It reads orders from a pipe. When the pipe closes without
// leave to go - this process was killed - it lets the VM go on, takes our descriptor sets away
// and removes the unfinished file. It does the same when it has orders for the VM and nothing comes out of the pipe for
// GuardianPatience: this process is stopped, or frozen. The connection to the monitor is shut down then.
//
// Which file that is, is fixed when it starts: a directory's descriptor and a name in it. The process that gives the orders may have been
// taken over by a guest meanwhile, and has given up the right to remove files itself.
//
// It is this program itself under another name, so any program that links the package can have one.
type Guardian struct {
	cmd    *exec.Cmd
	orders *os.File
	ended  chan struct{} // closed when the process has
}

// ErrNoGuardian: somebody has killed the guardian.
var ErrNoGuardian = errors.New("the guardian process is gone")

// GuardianPatience is how long a guest stands still whose saver has been stopped. A saver that is only slow, because the
// machine is busy, misses 25 heartbeats in a row in no case that was seen; and only those count that were missed
// while the guardian itself got its turn.
const GuardianPatience = 5 * time.Second

// beatEvery is how often a saver says that it is alive.
const beatEvery = GuardianPatience / 25

// Orders tell a guardian what to do if we die now.
type Orders struct {
	Cont  bool      `json:"cont,omitempty"`  // the VM was running: let it go on
	Hurry []Command `json:"hurry,omitempty"` // QEMU migrates on our behalf: this brings it to its end (Migration.Hurry)
	Sets  []int64   `json:"sets,omitempty"`  // descriptor sets to remove
	Undo  []Command `json:"undo,omitempty"`  // of what we set in the VM
	Leave bool      `json:"leave,omitempty"` // all is well: end
}

const guardianName = "ramjet-guardian"

func init() {
	if os.Args[0] == guardianName {
		os.Exit(guard())
	}
}

// StartGuardian starts one and returns when it stands by. It has no orders yet. unfinished are the files that it removes, where they are
// there, when it follows its orders.
func (vm *VM) StartGuardian(unfinished ...string) (*Guardian, error) {
	dirs, names, err := openDirectories(unfinished)
	if err != nil {
		return nil, fmt.Errorf("cannot start the guardian process: %w", err)
	}
	defer func() {
		for _, d := range dirs {
			d.Close()
		}
	}()
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
	g := &Guardian{orders: out, ended: make(chan struct{})}
	g.cmd = exec.Command("/proc/self/exe")
	g.cmd.Args = append([]string{guardianName}, names...)
	g.cmd.Stdin = in
	g.cmd.ExtraFiles = append([]*os.File{conn}, dirs...)
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
	joinCgroups(g.cmd.Process.Pid, vm.PID)
	go func() {
		defer close(g.ended)
		g.cmd.Wait()
	}()
	return g, nil
}

// Beat tells it that we are alive. It returns an error if the guardian is gone, or does not listen any more.
func (g *Guardian) Beat() error { return g.write([]byte{'\n'}) }

// write does not wait for a guardian that does not read.
func (g *Guardian) write(b []byte) error {
	_ = g.orders.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := g.orders.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // it is stopped, and finds all that it needs when it goes on
	}
	return err
}

// acted says that the guardian has ended after it had followed its orders because it did not hear us.
func (g *Guardian) acted() bool {
	select {
	case <-g.ended:
		return g.cmd.ProcessState.ExitCode() == exitSilence
	default:
		return false
	}
}

// acting says that a guardian that does not listen any more is still there: it is following its orders.
func (g *Guardian) acting() bool {
	select {
	case <-g.ended:
		return g.acted()
	case <-time.After(beatEvery):
		return true
	}
}

// Order replaces its orders. It returns an error if the guardian is gone.
func (g *Guardian) Order(o Orders) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := g.write(append(b, '\n')); err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuardian, err)
	}
	return nil
}

// Close lets the guardian go and waits for it. When it does not listen any more, because it is following its orders, or was
// killed, the error is ErrNoGuardian, and Abandon is what is left.
func (g *Guardian) Close() error {
	err := g.Order(Orders{Leave: true})
	g.orders.Close()
	if err != nil {
		return err
	}
	<-g.ended
	if !g.cmd.ProcessState.Success() {
		err = errors.Join(err, &exec.ExitError{ProcessState: g.cmd.ProcessState})
	}
	return err
}

// Abandon has the guardian follow its orders, as if this process had been killed, and waits a moment for it. Until it is done it
// goes on trying, whatever becomes of us. Our own connection to the monitor has to be closed: the guardian reads
// from the same.
func (g *Guardian) Abandon(wait time.Duration) {
	g.orders.Close()
	select {
	case <-g.ended:
	case <-time.After(wait):
	}
}

// firstDirectory is the descriptor of the first file's directory in the guardian; the monitor's is one below.
const firstDirectory = 4

// openDirectories opens the directories of files, and returns the files' names in them.
func openDirectories(files []string) (dirs []*os.File, names []string, err error) {
	for _, f := range files {
		dir, name := filepath.Split(f)
		fd, err := unix.Open(filepath.Clean(dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			for _, d := range dirs {
				d.Close()
			}
			return nil, nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		dirs, names = append(dirs, os.NewFile(uintptr(fd), dir)), append(names, name)
	}
	return dirs, names, nil
}

// exitSilence is the exit status of a guardian that has followed its orders because it heard nothing any more.
const exitSilence = 7

// guard is the guardian's whole life.
func guard() int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	os.Stdout.Write([]byte{'.'})
	os.Stdout.Close()
	_ = unix.SetNonblock(0, true) // so that it can be closed while it is read
	in := os.NewFile(0, "orders")
	o, silent := listen(in)
	if o.Leave {
		return 0
	}
	// Our process, if it wakes up, learns by this that nobody listens any more.
	in.Close()
	for i, name := range os.Args[1:] {
		_ = unix.Unlinkat(firstDirectory+i, name, 0)
	}
	m := &lastMonitor{f: os.NewFile(3, "monitor"), rivals: silent}
	m.in = bufio.NewReader(m.f)
	m.rescue(o)
	if silent {
		_ = unix.Shutdown(3, unix.SHUT_RDWR)
		return exitSilence
	}
	return 0
}

// listen takes orders until the pipe is closed, or silent for too long while there is something to be done for the VM.
func listen(in io.Reader) (o Orders, silent bool) {
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- bytes.Clone(s.Bytes())
		}
	}()
	for unheard := time.Duration(0); ; {
		waiting := time.Now()
		select {
		case line, ok := <-lines:
			if !ok {
				return o, false
			}
			unheard = 0
			var next Orders
			d := json.NewDecoder(bytes.NewReader(line))
			d.UseNumber() // a parameter to be put back may be as large as 2^64-1
			if d.Decode(&next) == nil {
				o = next
			}
		case <-time.After(beatEvery):
			// Time in which we stood still ourselves, or did not get our turn, says nothing of others.
			if d := time.Since(waiting); d < 2*beatEvery && (o.Cont || len(o.Hurry) > 0) {
				unheard += d
			}
			if unheard > GuardianPatience {
				return o, true
			}
		}
	}
}

// lastMonitor speaks QMP on a connection whose owner died at any point, even within a line, and whose last answers may
// not have been read.
type lastMonitor struct {
	f      *os.File
	in     *bufio.Reader
	id     int
	rivals bool // the owner lives, and may wake up and read answers that are ours: commands are sent again then

	deadline time.Time // for everything
}

// patience is how long the guardian keeps trying: a QEMU that hangs for minutes, because its disk does, is to find the order to
// go on when it wakes up.
const patience = 10 * time.Minute

// converge is how long a migration whose owner is dead may go on while the guest runs.
const converge = 10 * time.Second

func (m *lastMonitor) rescue(o Orders) {
	m.deadline = time.Now().Add(patience)
	_ = m.f.SetDeadline(m.deadline)
	for _, c := range o.Hurry {
		m.execute(c.Execute, c.Arguments)
	}
	// Much is refused while a cancelled migration is still being cleaned up.
	insist := func(c Command) {
		for time.Now().Before(m.deadline) {
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
		for time.Now().Before(m.deadline) {
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
	b = append(append([]byte{0xff}, b...), '\n')
	tries := 1
	if m.rivals {
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
