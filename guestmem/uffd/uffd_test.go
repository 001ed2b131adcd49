// SPDX-License-Identifier: Apache-2.0

package uffd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the injector that TestKilledAtEachStep kills.
func TestMain(m *testing.M) {
	if os.Getenv("UFFD_KILL_AT") != "" {
		os.Exit(injectAndDie())
	}
	os.Exit(m.Run())
}

// injectAndDie makes a userfaultfd and kills itself at a step, the first or a later one of that name.
func injectAndDie() int {
	var pid, device, nth int
	if _, err := fmt.Sscan(os.Getenv("UFFD_KILL_AT"), &pid, &device, &nth); err != nil {
		return 2
	}
	_, step, _ := strings.Cut(os.Getenv("UFFD_KILL_AT"), ":")
	_, err := create(injection{pid: pid, tid: pid, step: func(s string) {
		if s == step {
			if nth--; nth < 0 {
				if strings.HasPrefix(step, "towards") {
					time.Sleep(3 * time.Millisecond) // the thread stands in its stop, and nobody has waited for that
				}
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			}
		}
	}}, device, Options{})
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// victim is a running testdata/victim.c.
type victim struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string
	device int
	addr   uint64
	size   uint64
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "uffd")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "victim")
	out, err := exec.Command("gcc", "-O1", "-o", program, "testdata/victim.c", "-lpthread").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

func start(t *testing.T, mode string) *victim {
	t.Helper()
	if d, err := os.OpenFile(Device, os.O_RDWR, 0); err != nil {
		t.Skipf("takes %s and the right to use it: %v", Device, err)
	} else {
		d.Close()
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("takes gcc, for a program that looks at its registers")
	}
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{t: t, cmd: exec.Command(program, mode), lines: make(chan string, 16)}
	if v.in, err = v.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := v.cmd.StdoutPipe()
	if err == nil {
		err = v.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.cmd.Process.Kill(); v.cmd.Wait() })
	go func() {
		defer close(v.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			v.lines <- s.Text()
		}
	}()
	if _, err := fmt.Sscan(v.line(), &v.device, &v.addr, &v.size); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *victim) pid() int { return v.cmd.Process.Pid }

// line is the next that the program prints.
func (v *victim) line() string {
	v.t.Helper()
	select {
	case l, ok := <-v.lines:
		if ok && !strings.HasPrefix(l, "bad") {
			return l
		}
		v.t.Fatalf("the program has ended: %q", l)
	case <-time.After(10 * time.Second):
		v.t.Fatal("the program says nothing")
	}
	return ""
}

// tell gives the program a command, and does not wait for it.
func (v *victim) tell(format string, args ...any) {
	v.t.Helper()
	if _, err := fmt.Fprintf(v.in, format+"\n", args...); err != nil {
		v.t.Fatal(err)
	}
}

// runs has the program write a byte, and sees that its main thread gets on.
func (v *victim) runs() {
	v.t.Helper()
	rounds := func() (n int) {
		v.tell("w 0 1")
		if _, err := fmt.Sscanf(v.line(), "done 0 rounds %d", &n); err != nil {
			v.t.Fatal(err)
		}
		return n
	}
	before := rounds()
	for end := time.Now().Add(10 * time.Second); rounds() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			v.t.Fatal("the program's main thread stands still")
		}
	}
}

func (v *victim) create(o Options) *FD {
	v.t.Helper()
	u, err := Create(v.pid(), v.device, o)
	if err != nil {
		v.t.Fatal(err)
	}
	return u
}

// userfaultfds counts those that the program itself holds.
func (v *victim) userfaultfds() (n int) {
	v.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", v.pid())
	all, err := os.ReadDir(dir)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, e := range all {
		if to, _ := os.Readlink(filepath.Join(dir, e.Name())); strings.Contains(to, "userfaultfd") && !strings.HasPrefix(to, "/dev") {
			n++
		}
	}
	return n
}

func repeats(t *testing.T, variable string, otherwise int) int {
	if s := os.Getenv(variable); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return otherwise
}

// TestNothingChanges: a program that checks all of its registers, the red zone and its system call's result sees no injection, and is left with
// no descriptor. RAMJET_INJECTIONS says how many are made.
func TestNothingChanges(t *testing.T) {
	for _, mode := range []string{"poll", "loop"} {
		t.Run(mode, func(t *testing.T) {
			v := start(t, mode)
			for range repeats(t, "RAMJET_INJECTIONS", 300) {
				if err := v.create(Options{}).Close(); err != nil {
					t.Fatal(err)
				}
			}
			v.runs()
			if n := v.userfaultfds(); n != 0 {
				t.Errorf("the program is left with %d userfaultfds", n)
			}
		})
	}
}

// TestKilledAtEachStep: whenever the injector is killed, the program goes on as if nothing had been, and the next injection works.
func TestKilledAtEachStep(t *testing.T) {
	first := []string{"seized", "stopped", "frame", "registers", "towards entry", "entry", "towards exit", "exit", "taken", "closed"}
	again := []string{"registers", "towards entry", "entry", "towards exit", "exit"} // for close
	for _, mode := range []string{"poll", "loop"} {
		t.Run(mode, func(t *testing.T) {
			v := start(t, mode)
			for i, step := range append(first, again...) {
				nth := 0
				if i >= len(first) {
					nth = 1
				}
				for range repeats(t, "RAMJET_UFFD_KILLS", 5) {
					c := exec.Command(os.Args[0])
					c.Env = append(os.Environ(), fmt.Sprintf("UFFD_KILL_AT=%d %d %d:%s", v.pid(), v.device, nth, step))
					out, err := c.CombinedOutput()
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.Sys().(interface{ Signaled() bool }).Signaled() == false {
						t.Fatalf("%s: the injector was not killed: %v %s", step, err, out)
					}
					v.runs()
				}
			}
			// One that was killed between the ioctl and close leaves a descriptor, which does nothing.
			left := v.userfaultfds()
			if err := v.create(Options{}).Close(); err != nil {
				t.Fatal(err)
			}
			v.runs()
			if n := v.userfaultfds(); n != left {
				t.Errorf("%d userfaultfds are left, before the last injection %d were", n, left)
			}
		})
	}
}

// protected is a program of whose memory one huge page is protected.
func protected(t *testing.T) (v *victim, u *FD, addr, n uint64) {
	v = start(t, "poll")
	u = v.create(Options{})
	n = 2 << 20
	addr = (v.addr + n) &^ (n - 1)
	if err := u.Register(v.addr, v.size); err != nil {
		t.Fatal(err)
	}
	if err := u.Protect(addr, n); err != nil {
		t.Fatal(err)
	}
	return v, u, addr, n
}

// TestWriterWaits: a write waits until the page is unprotected, and the page has its old content until then.
func TestWriterWaits(t *testing.T) {
	v, u, addr, n := protected(t)
	defer u.Close()
	at := addr + 5*4096 + 7
	v.tell("w %d 9", at-v.addr)
	events, err := u.Next()
	if err != nil || len(events) != 1 || events[0].Kind != Fault || events[0].Addr&^4095 != at&^4095 {
		t.Fatalf("%+v, %v, want a fault at %#x", events, err, at)
	}
	if b := v.read(at); b != 1 {
		t.Errorf("the byte is %d while its writer waits", b)
	}
	select {
	case l := <-v.lines:
		t.Fatalf("the writer did not wait: %q", l)
	case <-time.After(50 * time.Millisecond):
	}
	if err := u.Unprotect(addr, n); err != nil {
		t.Fatal(err)
	}
	v.line()
	if b := v.read(at); b != 9 {
		t.Errorf("the byte is %d when its writer went on", b)
	}
}

// TestCloseLetsGo: who waits goes on when the userfaultfd is closed, as it is when this process ends.
func TestCloseLetsGo(t *testing.T) {
	v, u, addr, _ := protected(t)
	v.tell("w %d 9", addr-v.addr)
	if _, err := u.Next(); err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	v.line()
	v.runs()
}

// TestDiscardIsSeen: memory that the program discards is told, while the discard waits.
func TestDiscardIsSeen(t *testing.T) {
	v, u, addr, n := protected(t)
	defer u.Close()
	v.tell("d %d %d", addr-v.addr, n)
	events, err := u.Next()
	if err != nil || len(events) != 1 || events[0] != (Event{Kind: Removed, Addr: addr, End: addr + n}) {
		t.Fatalf("%+v, %v, want that %#x to %#x is removed", events, err, addr, addr+n)
	}
	v.line()
}

func TestStop(t *testing.T) {
	_, u, _, _ := protected(t)
	defer u.Close()
	ended := make(chan error)
	go func() { _, err := u.Next(); ended <- err }()
	if err := u.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want %v", err, ErrClosed)
	}
}

// TestRefused: a process that is traced already is refused with a sentence, and a file's memory with ErrMemory.
func TestRefused(t *testing.T) {
	v := start(t, "poll")
	err := onOwnThread(func() error {
		other, err := seize(v.pid())
		if err != nil {
			return err
		}
		defer other.detach()
		_, err = Create(v.pid(), v.device, Options{})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "is traced by process") {
		t.Errorf("%v, want that the process is traced", err)
	}
	v.runs()
	u := v.create(Options{})
	defer u.Close()
	program, err := executable(v.pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Register(program[0].start, 4096); !errors.Is(err, ErrMemory) {
		t.Errorf("%v, want %v", err, ErrMemory)
	}
	v.runs()
}

func (v *victim) read(addr uint64) byte {
	v.t.Helper()
	b := []byte{0}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(1)
	if _, err := unix.ProcessVMReadv(v.pid(), local, []unix.RemoteIovec{{Base: uintptr(addr), Len: 1}}, 0); err != nil {
		v.t.Fatal(err)
	}
	return b[0]
}
