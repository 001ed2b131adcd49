// SPDX-License-Identifier: Apache-2.0

package attendant

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Process is an attendant as the process that started it sees it. Answer is for one goroutine at a time; all other
// methods may be called at any time.
type Process struct {
	cmd     *exec.Cmd
	orders  *os.File
	answers *os.File
	decoder *json.Decoder // of answers
	ended   chan struct{} // closed when the process has
}

// Start starts an attendant with these arguments and files, and does not wait until it is ready. The files stay the
// caller's.
func (k Kind) Start(args []string, files ...*os.File) (*Process, error) {
	if !registered[k.Name] {
		return nil, fmt.Errorf("this program has no %s: call save.RunAttendant or restore.RunAttendant first in its main (docs/library.md)", k.Name)
	}
	stdin, orders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	answers, stdout, err := os.Pipe()
	if err != nil {
		orders.Close()
		return nil, err
	}
	defer stdout.Close()
	p := &Process{exec.Command("/proc/self/exe"), orders, answers, json.NewDecoder(answers), make(chan struct{})}
	p.cmd.Args = append([]string{k.Name}, args...)
	p.cmd.Env = []string{"GOMAXPROCS=1"}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.ExtraFiles = stdin, stdout, files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		p.Close()
		return nil, err
	}
	go func() { p.cmd.Wait(); close(p.ended) }()
	return p, nil
}

// Ready waits until the attendant ignores signals and is about to read its orders. To be called once, before Answer, or
// not at all.
func (p *Process) Ready() error {
	_, err := p.answers.Read(make([]byte, 1))
	return err
}

// Order sends an order.
func (p *Process) Order(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.write(b)
}

// Beat sends a heartbeat.
func (p *Process) Beat() error { return p.write(nil) }

// write fails if the attendant is gone or has closed its orders. It does not wait for one that does not read: that one
// has been stopped, and finds in the pipe all that it needs when it goes on.
func (p *Process) write(line []byte) error {
	_ = p.orders.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := p.orders.Write(append(line, '\n'))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// Answer waits for the attendant's next answer.
func (p *Process) Answer(v any) error { return p.decoder.Decode(v) }

// Leave tells the attendant to end, and does not wait for that.
func (p *Process) Leave() error {
	err := p.write(leave)
	p.Close()
	return err
}

// Close closes the pipes to the attendant, which means to it that this process is dead. After Leave, and after Close,
// it does nothing.
func (p *Process) Close() {
	p.orders.Close()
	p.answers.Close()
}

// PID is the attendant's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the attendant has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err waits until the attendant has ended. It is an *exec.ExitError if the exit status is not 0.
func (p *Process) Err() error {
	<-p.ended
	if p.cmd.ProcessState.Success() {
		return nil
	}
	return &exec.ExitError{ProcessState: p.cmd.ProcessState}
}

// ExitStatus waits until the attendant has ended; -1 if a signal ended it.
func (p *Process) ExitStatus() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}
