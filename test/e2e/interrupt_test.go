// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/restore"
)

// TestSecondInterrupt: a second Ctrl-C ends a command that the first does not, because it waits for something that never comes.
func TestSecondInterrupt(t *testing.T) {
	dir := directory(t)
	fifo := dir + "/fifo"
	do(t, unix.Mkfifo(fifo, 0o600))
	key := dir + "/key"
	identity, err := age.GenerateX25519Identity()
	do(t, err)
	do(t, os.WriteFile(key, []byte(identity.String()+"\n"), 0o600))
	for name, args := range map[string][]string{
		"import of a fifo": {"import", "--identity", key, fifo, dir + "/image"},
		"key in a fifo":    {"import", "--identity", fifo, dir + "/in", dir + "/image"},
		"export to a key":  {"export", "--format=age", "--recipients-file", fifo, dir + "/in", dir + "/out"},
	} {
		t.Run(name, func(t *testing.T) {
			interruptedTwice(t, args)
		})
	}
	// A QEMU that does not hear the SIGTERM that the first one causes.
	t.Run("restore", func(t *testing.T) {
		image := smallImage(t)
		socket := dir + "/qmp"
		interruptedTwice(t, []string{"restore", "--qmp", socket, image, "--", "-machine", "pc", "-m", "8M", "-nodefaults", "-display", "none", "-pidfile", dir + "/pid"},
			func() {
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					if _, err := os.Stat(dir + "/pid"); err == nil {
						break
					}
					if time.Now().After(deadline) {
						t.Fatal("QEMU does not start")
					}
				}
				time.Sleep(500 * time.Millisecond)
				pid := pidIn(t, dir+"/pid")
				t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
				do(t, syscall.Kill(pid, syscall.SIGSTOP))
			})
	})
	// A fifo where a block's memory should be is seen, and not waited for.
	t.Run("block in a fifo", func(t *testing.T) {
		image, out := smallImage(t), dir+"/raw"
		if o := ramjet(t, "export", "--format=raw", image, out); o.status != 0 {
			t.Fatal(o.err)
		}
		do(t, os.Remove(out+"/pc.ram.raw"))
		do(t, unix.Mkfifo(out+"/pc.ram.raw", 0o600))
		refused(t, 1, []string{"pc.ram.raw", "not a regular file"}, "import", out, dir+"/image")
	})
}

// interruptedTwice runs a command that hangs and interrupts it until it ends, which has to be at the second time.
func interruptedTwice(t *testing.T, args []string, then ...func()) {
	t.Helper()
	c := exec.Command(program, args...)
	var stderr strings.Builder
	c.Stderr = &stderr
	do(t, c.Start())
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	time.Sleep(200 * time.Millisecond) // it hangs by then
	for _, f := range then {
		f()
	}
	for range 2 {
		select {
		case <-ended:
			t.Fatalf("%v has ended: %s", args, &stderr)
		default:
		}
		do(t, c.Process.Signal(os.Interrupt))
		time.Sleep(100 * time.Millisecond)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		c.Process.Kill()
		t.Fatalf("%v does not end", args)
	}
	if c.ProcessState.ExitCode() != 130 || !strings.Contains(stderr.String(), "interrupted again") {
		t.Errorf("%v ends with %v: %s", args, c.ProcessState, &stderr)
	}
}

func pidIn(t *testing.T, path string) (pid int) {
	t.Helper()
	b, err := os.ReadFile(path)
	do(t, err)
	do(t, json.Unmarshal(b, &pid))
	return pid
}

// TestPrefetchWaitInterrupted: Ctrl-C while --prefetch=wait waits ends the waiting. The VM is there, and its pages still come.
func TestPrefetchWaitInterrupted(t *testing.T) {
	image := smallImage(t)
	for range 10 {
		dir := directory(t)
		c := exec.Command(program, "restore", "--detach", "--json", "--prefetch=wait", "--paused", "--qmp", dir+"/qmp", image, "--",
			"-machine", "pc", "-m", "8M", "-nodefaults", "-display", "none")
		var out, stderr strings.Builder
		c.Stdout, c.Stderr = &out, &stderr
		do(t, c.Start())
		ended := make(chan struct{})
		go func() { c.Wait(); close(ended) }()
		prefetcher := childNamed(c.Process.Pid, "ramjet-prefetch", ended)
		if prefetcher != 0 {
			do(t, syscall.Kill(prefetcher, syscall.SIGSTOP))
			time.Sleep(200 * time.Millisecond)
		}
		missed := false
		select {
		case <-ended:
			missed = true // it had done its work before it was stopped
		default:
			do(t, c.Process.Signal(os.Interrupt))
		}
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			c.Process.Kill()
			t.Error("it waits on")
		}
		if prefetcher != 0 {
			syscall.Kill(prefetcher, syscall.SIGCONT)
		}
		var r restore.Result
		if json.Unmarshal([]byte(out.String()), &r) != nil || r.PID == 0 {
			t.Fatalf("status %v, says %q %q", c.ProcessState, &out, &stderr)
		}
		kill(r.PID)
		if missed {
			continue
		}
		if r.ResidentSeconds != 0 || c.ProcessState.ExitCode() != 0 {
			t.Errorf("status %v, resident after %v s", c.ProcessState, r.ResidentSeconds)
		}
		return
	}
	t.Fatal("the prefetch was never seen")
}

// childNamed waits for a process's child of that name, and returns 0 if there is none when ended is closed.
func childNamed(parent int, name string, ended <-chan struct{}) (pid int) {
	for {
		lists, _ := filepath.Glob("/proc/" + strconv.Itoa(parent) + "/task/*/children")
		for _, list := range lists {
			b, _ := os.ReadFile(list)
			for _, child := range strings.Fields(string(b)) {
				if args, _ := os.ReadFile("/proc/" + child + "/cmdline"); strings.HasPrefix(string(args), name) {
					_ = json.Unmarshal([]byte(child), &pid)
					return pid
				}
			}
		}
		select {
		case <-ended:
			return 0
		case <-time.After(200 * time.Microsecond):
		}
	}
}
