// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// both runs a test against both kinds of ramjet serve.
func both(t *testing.T, sc scene, test func(t *testing.T, p *player)) {
	for _, kind := range others {
		t.Run(kind, func(t *testing.T) {
			if kind == front {
				if _, err := vm.Version(); err != nil {
					t.Skip(err)
				}
			}
			p := newPlayer(t, kind)
			p.paths = sc.paths
			if err := p.restart(sc.incoming); err != nil {
				t.Fatal(err)
			}
			p.must(t, sc.script)
			test(t, p)
		})
	}
}

func newPlayer(t *testing.T, kind string) *player {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(program), "")
	if err != nil {
		t.Fatal(err)
	}
	p := &player{kind: kind, program: program, dir: dir, files: map[string]*os.File{}, flags: map[string]string{}}
	p.normal.dir = dir
	t.Cleanup(func() {
		p.close()
		os.RemoveAll(dir)
	})
	return p
}

// must plays steps, none of which may be answered with an error, and returns the last answer.
func (p *player) must(t *testing.T, script string) (answer string) {
	t.Helper()
	for _, st := range parse(script) {
		var err error
		answer, err = p.step(st.text)
		if err != nil {
			t.Fatalf("%s: %v", st.text, err)
		}
		if strings.HasPrefix(answer, "error") || answer == monitorGone {
			t.Fatalf("%s: %s", st.text, answer)
		}
	}
	return answer
}

// expect plays one step and compares its answer.
func (p *player) expect(t *testing.T, step, want string) {
	t.Helper()
	got, err := p.step(step)
	if err != nil || got != want {
		t.Errorf("%s: %s, %v; want %s", step, got, err, want)
	}
}

// TestManyConnections: 200 clients in turn, and 10,000 descriptors, leave nothing behind.
func TestManyConnections(t *testing.T) {
	both(t, scene{script: "open a r /dev/null\nadd-fd < a\nremove-fd {\"fdset-id\":0}"}, func(t *testing.T, p *player) {
		before := p.server.descriptors()
		for i := range 200 {
			p.client.conn.Close()
			c, _, err := p.server.dial()
			if err != nil {
				t.Fatal(err)
			}
			p.client = c
			if i%3 > 0 { // some leave without a word, some with a descriptor on its way
				p.must(t, "qmp_capabilities")
				p.must(t, "query-version < a")
				p.client.send([]byte(`{"execute"`), p.files["a"])
			}
		}
		p.client.conn.Close()
		if err := p.connect(); err != nil {
			t.Fatal(err)
		}
		for range 10_000 {
			if _, err := p.client.execute("add-fd", `{"fdset-id":1}`, p.files["a"]); err != nil {
				t.Fatal(err)
			}
			if m, err := p.client.execute("remove-fd", `{"fdset-id":1}`); err != nil || m["error"] != nil {
				t.Fatal(m, err)
			}
		}
		p.before = before
		p.expect(t, "leak", "none")
		p.expect(t, "query-fdsets", "[]")
	})
}

// proberSocket names the variable that makes this program only try a socket, as another user.
const proberSocket = "RAMJET_TEST_SOCKET"

func probe(socket string) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Println("dial:", err)
		return
	}
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	b, err := io.ReadAll(c)
	fmt.Printf("%s, %v\n", strings.TrimSpace(string(b)), err)
}

// TestOtherUser: the socket is of mode 0600, and who gets at it all the same is not served.
func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	both(t, scene{}, func(t *testing.T, p *player) {
		if st, err := os.Stat(p.server.socket); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the socket: %v, %v", st.Mode(), err)
		}
		exe, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		prober := filepath.Join(p.dir, "prober")
		if err := os.WriteFile(prober, exe, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{p.dir, filepath.Dir(p.dir)} {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		dial := func() string {
			c := exec.Command(prober)
			c.Env = append(os.Environ(), proberSocket+"="+p.server.socket)
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			out, _ := c.CombinedOutput()
			return string(out)
		}
		if out := dial(); !strings.Contains(out, "permission denied") {
			t.Errorf("through the file mode: %s", out)
		}
		if err := os.Chmod(p.server.socket, 0o666); err != nil {
			t.Fatal(err)
		}
		if out := dial(); !strings.Contains(out, `{"error": {"class": "GenericError", "desc": "user 65534 may not use this monitor: user 0 and root may, `) {
			t.Errorf("around the file mode: %s", out)
		}
		p.must(t, "query-status")
	})
}

// TestCancelAnyTime: a migration that is cancelled at any moment leaves no image, no descriptor, a running guest, and
// a monitor that can migrate.
func TestCancelAnyTime(t *testing.T) {
	both(t, scene{script: direct + "fill 1\n" + pass("a", "w w+direct")}, func(t *testing.T, p *player) {
		p.must(t, `migrate-set-parameters {"max-bandwidth":100000000}`)
		ends := map[string]int{}
		for range 30 {
			p.must(t, `migrate {"uri":"file:/dev/fdset/1"}`)
			time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
			p.must(t, "migrate_cancel")
			end := p.must(t, "wait")
			ends[end]++
			head, err := p.step("head image 0")
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case end == "cancelled" && head == "too short":
				p.expect(t, "query-status", `{"running":true,"status":"running"}`)
			case end == "completed" && head == "a stream":
				p.must(t, "cont")
			default:
				t.Fatalf("%s, and the file holds %s", end, head)
			}
		}
		t.Log(ends)
		if ends["cancelled"] == 0 {
			t.Error("none was cancelled")
		}
		p.must(t, `migrate-set-parameters {"max-bandwidth":0}`)
		p.must(t, `migrate {"uri":"file:/dev/fdset/1"}`)
		p.expect(t, "wait", "completed")
		p.expect(t, "check 1", "as it was")
		p.must(t, `remove-fd {"fdset-id":1}`)
		p.expect(t, "leak", "none")
	})
}

// TestDiskFull: a full disk fails the migration and nothing else.
func TestDiskFull(t *testing.T) {
	small := t.TempDir()
	if err := unix.Mount("small", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	for _, setup := range []string{plain, mapped, multifd} {
		both(t, scene{script: setup + "fill 1\nopen a w " + small + "/image\nadd-fd {\"fdset-id\":1} < a"}, func(t *testing.T, p *player) {
			p.must(t, `migrate {"uri":"file:/dev/fdset/1"}`)
			if end := p.must(t, "wait"); p.kind == own || setup != plain {
				if !strings.HasPrefix(end, "failed") || !strings.Contains(end, "no space left") {
					t.Errorf("ended: %s", end)
				}
				if st, err := p.files["a"].Stat(); err != nil || st.Size() != 0 {
					t.Errorf("the file has %d bytes, %v", st.Size(), err)
				}
			}
			p.expect(t, "query-status", `{"running":true,"status":"running"}`)
			p.must(t, "remove-fd {\"fdset-id\":1}\n"+pass("b", "w")+`migrate {"uri":"file:/dev/fdset/1"}`)
			p.expect(t, "wait", "completed")
			p.expect(t, "check 1", "as it was")
			p.must(t, `remove-fd {"fdset-id":1}`)
			p.expect(t, "leak", "none")
		})
	}
}

// TestKilledInThePause: ramjet serve dies while a guest stands still because of it, and the guest goes on.
func TestKilledInThePause(t *testing.T) {
	if _, err := vm.Version(); err != nil {
		t.Skip(err)
	}
	p := newPlayer(t, front)
	if err := p.restart(false); err != nil {
		t.Fatal(err)
	}
	p.must(t, multifd+caps("pause-before-switchover")+"fill 1\n"+pass("a", "w")+`migrate {"uri":"file:/dev/fdset/1"}`)
	p.expect(t, "until pre-switchover", "yes")
	p.server.child.Process.Kill()
	<-p.server.ended
	behind := &server{kind: stock, socket: filepath.Join(p.dir, "qemu")}
	for range 100 {
		c, _, err := behind.dial()
		if err != nil {
			t.Fatal(err)
		}
		p.client.conn.Close()
		p.client = c
		if got, err := p.step("qmp_capabilities"); err == nil && got == "{}" {
			if got, _ = p.step("query-status"); got == `{"running":true,"status":"running"}` {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the guest does not run")
}

// TestCommandsAreQEMUs: there is no command that a QEMU does not have.
func TestCommandsAreQEMUs(t *testing.T) {
	needQEMU(t)
	names := map[string]map[string]bool{}
	for _, kind := range []string{stock, own} {
		p := newPlayer(t, kind)
		if err := p.restart(false); err != nil {
			t.Fatal(err)
		}
		m, err := p.client.execute("query-commands", "")
		if err != nil {
			t.Fatal(err)
		}
		names[kind] = map[string]bool{}
		for _, c := range m["return"].([]any) {
			names[kind][fmt.Sprint(c.(map[string]any)["name"])] = true
		}
	}
	for name := range names[own] {
		if !names[stock][name] {
			t.Errorf("QEMU has no %s", name)
		}
	}
	t.Logf("%d of QEMU's %d commands", len(names[own]), len(names[stock]))
}

// TestInheritedSocket: --qmp-fd takes a socket that listens, and one that is connected.
func TestInheritedSocket(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listening, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*os.File{"connected": os.NewFile(uintptr(fds[1]), ""), "listening": listening} {
		c := exec.Command(program, "serve", "--qmp-fd", "3", "--memory", "m0=1M")
		c.ExtraFiles = []*os.File{f}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		var conn net.Conn
		if name == "connected" {
			near := os.NewFile(uintptr(fds[0]), "")
			conn, err = net.FileConn(near)
			near.Close()
		} else {
			conn, err = net.Dial("unix", path)
		}
		if err != nil {
			t.Fatal(err)
		}
		cl := newClient(conn.(*net.UnixConn))
		if s, err := cl.line(); err != nil || !strings.Contains(s, `"QMP"`) {
			t.Errorf("%s: %q, %v", name, s, err)
		}
		cl.execute("qmp_capabilities", "")
		cl.execute("quit", "")
		conn.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSocat: a line from the shell.
func TestSocat(t *testing.T) {
	if _, err := exec.LookPath("socat"); err != nil {
		t.Skip(err)
	}
	both(t, scene{}, func(t *testing.T, p *player) {
		c := exec.Command("sh", "-c", `(echo '{"execute":"qmp_capabilities"}'; sleep 0.2; echo "{'execute':'query-status','id':'x'} {'execute':'nope'}"; sleep 0.2) | socat - UNIX-CONNECT:"$0"`, p.server.socket)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, want := range []string{`{"QMP": {"version"`, `"id": "x"`, "The command nope has not been found"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %s in %s", want, out)
			}
		}
	})
}
