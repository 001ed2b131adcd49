// SPDX-License-Identifier: Apache-2.0

// Package conformance holds ramjet serve against QEMU: scenes of QMP commands and passed descriptors are played to a stock
// QEMU, to `ramjet serve` with memory of its own, and to `ramjet serve --vm` in front of a QEMU, and what they answer is
// compared. docs/conformance.md is made from the same table and the same answers.
package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// memory is the guest's, in bytes: more than a front passes to QEMU within the stream (package proxy, settled).
const memory = 12 << 20

// Kinds of server.
const (
	stock = "QEMU"
	own   = "serve"
	front = "serve --vm"
)

// server is one of them, running.
type server struct {
	kind   string
	socket string
	child  *exec.Cmd // whose socket it is
	qemu   *exec.Cmd // behind a front, else nil
	ended  chan struct{}
	dir    string
}

// start starts a server whose guest is 12 MiB of memory called m0. incoming has it wait for a migration; paths lets it open
// files by their names.
func start(kind, program, dir string, incoming, paths bool) (*server, error) {
	s := &server{kind: kind, dir: dir, socket: filepath.Join(dir, "monitor"), ended: make(chan struct{})}
	var args []string
	switch kind {
	case own:
		args = []string{program, "serve", "--qmp", s.socket, "--memory", fmt.Sprintf("m0=%d", memory)}
		if incoming {
			args = append(args, "--incoming")
		}
	case stock:
		args = qemuArgs(s.socket, incoming)
	case front:
		behind := filepath.Join(dir, "qemu")
		s.qemu = command(qemuArgs(behind, incoming), dir)
		if err := s.qemu.Start(); err != nil {
			return nil, err
		}
		if err := awaitSocket(behind, nil); err != nil {
			s.qemu.Process.Kill()
			return nil, err
		}
		args = []string{program, "serve", "--qmp", s.socket, "--vm", behind}
	}
	if paths && kind != stock {
		args = append(args, "--no-sandbox")
	}
	s.child = command(args, dir)
	if err := s.child.Start(); err != nil {
		s.stop()
		return nil, err
	}
	go func() { s.child.Wait(); close(s.ended) }()
	if err := awaitSocket(s.socket, s.ended); err != nil {
		said := fmt.Sprint(s.child.Stderr)
		s.stop()
		return nil, fmt.Errorf("%s: %w: %s", kind, err, said)
	}
	return s, nil
}

func qemuArgs(socket string, incoming bool) []string {
	args := []string{vm.Program(), "-accel", vm.Accelerator(), "-M", "none,memory-backend=m0", "-nodefaults", "-display", "none",
		"-object", fmt.Sprintf("memory-backend-memfd,id=m0,size=%d,share=on", memory), "-m", fmt.Sprintf("%dM", memory>>20),
		"-qmp", "unix:" + socket + ",server=on,wait=off"}
	if incoming {
		args = append(args, "-incoming", "defer")
	}
	return args
}

func command(args []string, dir string) *exec.Cmd {
	c := exec.Command(args[0], args[1:]...)
	c.Dir = dir // for core dumps, which some rows cause
	c.Stderr = new(strings.Builder)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// awaitSocket waits until a server listens, without connecting: a QEMU would have to notice the end of that connection.
func awaitSocket(path string, ended chan struct{}) error {
	for range 500 {
		if b, err := os.ReadFile("/proc/net/unix"); err == nil {
			for line := range strings.Lines(string(b)) {
				// Flags 00010000: it listens.
				if f := strings.Fields(line); len(f) == 8 && f[3] == "00010000" && f[7] == path {
					return nil
				}
			}
		}
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("it does not listen")
}

// dial connects and reads the greeting.
func (s *server) dial() (*client, string, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		return nil, "", err
	}
	cl := newClient(c)
	greeting, err := cl.line()
	return cl, greeting, err
}

// fate tells how the server's process is, after that time at the latest.
func (s *server) fate(wait time.Duration) string {
	select {
	case <-s.ended:
	case <-time.After(wait):
		return "running"
	}
	st := s.child.ProcessState
	if w, ok := st.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return "killed by " + unix.SignalName(w.Signal())
	}
	return fmt.Sprintf("ended with status %d", st.ExitCode())
}

// stop ends it, whatever it does.
func (s *server) stop() {
	for _, c := range []*exec.Cmd{s.child, s.qemu} {
		if c != nil && c.Process != nil {
			c.Process.Kill()
		}
	}
	if s.child != nil && s.child.Process != nil {
		<-s.ended
	}
	if s.qemu != nil {
		s.qemu.Wait()
	}
}

// holder is the process that has the guest's memory.
func (s *server) holder() int {
	if s.qemu != nil {
		return s.qemu.Process.Pid
	}
	return s.child.Process.Pid
}

// guestMemory opens the guest's memory from outside.
func (s *server) guestMemory() (*os.File, error) {
	dir := fmt.Sprintf("/proc/%d/fd", s.holder())
	if s.kind != own {
		dir = fmt.Sprintf("/proc/%d/map_files", s.holder())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		to, _ := os.Readlink(path)
		if strings.HasPrefix(to, "/memfd:ramjet-m0") || strings.HasPrefix(to, "/memfd:memory-backend-memfd") {
			return os.OpenFile(path, os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no memory in %s", dir)
}

// descriptors counts the open descriptors of each process of the server.
func (s *server) descriptors() (n [2]int) {
	for i, c := range []*exec.Cmd{s.child, s.qemu} {
		if c != nil {
			entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Process.Pid))
			n[i] = len(entries)
		}
	}
	return n
}
