// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tracer runs strace on a process.
type tracer struct {
	cmd *exec.Cmd
	out string
}

func trace(t *testing.T, pid int, calls string) *tracer {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	tr := &tracer{out: filepath.Join(t.TempDir(), "trace")}
	tr.cmd = exec.Command("strace", "-f", "-y", "-s", "0", "-o", tr.out, "-e", "trace="+calls, "-p", strconv.Itoa(pid))
	stderr, err := tr.cmd.StderrPipe()
	if err == nil {
		err = tr.cmd.Start()
	}
	if err != nil {
		t.Skip(err)
	}
	b := make([]byte, 4096)
	if n, err := stderr.Read(b); err != nil || !strings.Contains(string(b[:n]), "attached") {
		t.Skipf("strace: %s", b[:n])
	}
	go func() {
		for {
			if _, err := stderr.Read(b); err != nil {
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond) // all threads
	return tr
}

// lines ends the trace and returns it, calls that others interrupted put together.
func (tr *tracer) lines(t *testing.T) []string {
	t.Helper()
	tr.cmd.Process.Signal(os.Interrupt)
	tr.cmd.Wait()
	b, err := os.ReadFile(tr.out)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	begun := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		thread, call, _ := strings.Cut(line, " ")
		call = strings.TrimSpace(call)
		if head, ok := strings.CutSuffix(call, " <unfinished ...>"); ok {
			begun[thread] = head
			continue
		}
		if _, rest, ok := strings.Cut(call, " resumed>"); ok && strings.HasPrefix(call, "<...") {
			call = begun[thread] + rest
		}
		lines = append(lines, call)
	}
	return lines
}

var transfer = regexp.MustCompile(`^(pwrite64|pread64|pwritev|preadv|write|read)\(\d+<([^>]*)>.*, (\d+), (\d+)\) += (\d+)$`)

// TestDirectOnlyForPages: with direct-io, the descriptor with O_DIRECT is used for whole pages at their places and for nothing
// else, and the other one for everything else; nobody's flags are changed; no path is opened.
//
// The two are told apart by name: they are opened by different hard links of the image.
func TestDirectOnlyForPages(t *testing.T) {
	both(t, scene{script: direct + "fill 1\nmake image 0 X"}, func(t *testing.T, p *player) {
		if err := os.Link(p.path("image"), p.path("pages")); err != nil {
			t.Fatal(err)
		}
		p.must(t, "open a w image\nopen b w+direct pages\nadd-fd {\"fdset-id\":1} < a\nadd-fd {\"fdset-id\":1} < b")
		tr := trace(t, p.server.child.Process.Pid, "%file,pwrite64,pread64,pwritev,preadv,write,read,fcntl,ftruncate,fallocate,lseek")
		p.must(t, `migrate {"uri":"file:/dev/fdset/1,offset=512"}`)
		p.expect(t, "wait", "completed")
		lines := tr.lines(t)
		p.expect(t, "flags a", "unchanged")
		p.expect(t, "flags b", "unchanged")

		pages, rest := p.look(t, lines, "pwrite64")
		if want := int64(2<<20 + 4096); pages != want {
			t.Errorf("%d bytes by the descriptor with O_DIRECT, the guest has %d that are not zero", pages, want)
		}
		if rest == 0 || rest > 16<<10 {
			t.Errorf("%d bytes by the other one", rest)
		}
		t.Logf("O_DIRECT: %d bytes; headers, bitmaps, device state: %d bytes; %d calls traced", pages, rest, len(lines))
	})
}

// look adds up what went through each descriptor.
func (p *player) look(t *testing.T, lines []string, call string) (pages, rest int64) {
	t.Helper()
	for _, line := range lines {
		name, _, _ := strings.Cut(line, "(")
		switch {
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "+++"): // signals, the end of a thread
		case strings.Contains(line, "F_SETFL") && strings.Contains(line, p.dir):
			t.Errorf("flags are changed: %s", line)
		case name == "lseek" && strings.Contains(line, p.dir):
			if !strings.Contains(line, "0, SEEK_CUR") {
				t.Errorf("a position is changed: %s", line)
			}
		case opensPath(name) && !p.mayOpen(line):
			t.Errorf("a path is used: %s", line)
		}
		m := transfer.FindStringSubmatch(line)
		if m == nil || m[1] != call {
			continue
		}
		n, off := number(m[5]), number(m[4])
		switch m[2] {
		case p.path("pages"):
			if pages += n; n%4096 != 0 || off%4096 != 0 {
				t.Errorf("not whole pages: %s", line)
			}
		case p.path("image"):
			rest += n
		}
	}
	return pages, rest
}

func opensPath(call string) bool {
	switch call {
	case "fcntl", "pwrite64", "pread64", "pwritev", "preadv", "write", "read", "ftruncate", "fallocate", "lseek", "":
		return false
	case "cachestat", "syscall_0x1c3": // as which a strace that does not know it yet shows it
		return false
	}
	// %file has calls in it that take descriptors alone when the path is empty.
	return call != "fstat" && call != "statx" && call != "newfstatat"
}

// mayOpen: in front of a QEMU that process is looked at; see monitor.SandboxBeside.
func (p *player) mayOpen(line string) bool {
	if p.kind != front {
		return false
	}
	return strings.Contains(line, fmt.Sprintf(`"/proc/%d/`, p.server.qemu.Process.Pid)) || strings.Contains(line, `"/proc/self/fd/`)
}

// TestSandbox: what is under a filter says so, and a path is out of reach even where it is allowed by permissions.
func TestSandbox(t *testing.T) {
	both(t, scene{script: mapped}, func(t *testing.T, p *player) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.server.child.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"Seccomp:\t2", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("its status has no %q", want)
			}
		}
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.server.child.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", p.server.child.Process.Pid, task.Name()))
			if !strings.Contains(string(b), "Seccomp:\t2") {
				t.Errorf("thread %s is without", task.Name())
			}
		}
		answer, err := p.step(`migrate {"uri":"file:DIR/image"}`)
		if err != nil || !strings.Contains(answer, "add-fd") {
			t.Errorf("%s, %v", answer, err)
		}
		var st unix.Stat_t
		if unix.Stat(p.path("image"), &st) == nil {
			t.Error("the file is there")
		}
	})
}
