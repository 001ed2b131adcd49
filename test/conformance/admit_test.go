// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// serving is a `ramjet serve` whose processes and clients may be of different users.
type serving struct {
	t      *testing.T
	dir    string
	socket string
}

// newServing makes a directory that everybody can look into, with the program and this one.
func newServing(t *testing.T) *serving {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	dir, err := os.MkdirTemp("", "ramjet-admit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &serving{t: t, dir: dir, socket: filepath.Join(dir, "m")}
	for name, from := range map[string]string{"ramjet": program, "prober": "/proc/self/exe"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return s
}

// start starts it as a user.
func (s *serving) start(uid uint32, args ...string) {
	s.t.Helper()
	c := exec.Command(filepath.Join(s.dir, "ramjet"), append([]string{"serve", "--listen", s.socket, "--memory", "m=1M"}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var said strings.Builder
	c.Stderr = &said
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	s.t.Cleanup(func() { c.Process.Kill(); <-ended })
	if err := awaitSocket(s.socket, ended); err != nil {
		s.t.Fatal(err, said.String())
	}
}

// dial is what a client of a user and of groups is told first.
func (s *serving) dial(uid uint32, groups ...uint32) string {
	c := exec.Command(filepath.Join(s.dir, "prober"))
	c.Env = append(os.Environ(), proberSocket+"="+s.socket)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
	out, _ := c.CombinedOutput()
	return string(out)
}

// TestAdmitted: served are the server's user, root, and the members of --group; others are told why not.
func TestAdmitted(t *testing.T) {
	const user, member, group = 65001, 65002, 65010
	const greeting = `{"QMP": `
	t.Run("root", func(t *testing.T) {
		s := newServing(t)
		s.start(user)
		for _, uid := range []uint32{0, user} {
			if out := s.dial(uid); !strings.HasPrefix(out, greeting) {
				t.Errorf("user %d: %s", uid, out)
			}
		}
	})
	t.Run("group", func(t *testing.T) {
		s := newServing(t)
		s.start(0, "--group", fmt.Sprint(group))
		var st unix.Stat_t
		if err := unix.Stat(s.socket, &st); err != nil || st.Mode&0o777 != 0o660 || st.Gid != group {
			t.Errorf("the socket: mode %#o, group %d, %v", st.Mode&0o777, st.Gid, err)
		}
		if out := s.dial(member, group); !strings.HasPrefix(out, greeting) {
			t.Errorf("a member: %s", out)
		}
		if out := s.dial(member); !strings.Contains(out, "permission denied") {
			t.Errorf("no member: %s", out)
		}
		if err := os.Chmod(s.socket, 0o666); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "user %d may not use this monitor: user 0, root and the members of group %d may"}}`, member, group)
		if out := s.dial(member); !strings.HasPrefix(out, want) {
			t.Errorf("no member, around the file mode: %s", out)
		}
	})
}

// TestMetricsSocket: a socket for metrics that was left behind is replaced, and only its user reaches it; another file stays.
func TestMetricsSocket(t *testing.T) {
	s := newServing(t)
	path := filepath.Join(s.dir, "metrics")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	s.start(0, "--metrics", path)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /metrics HTTP/1.0\r\n\r\n")
	b := make([]byte, 15)
	if _, err := c.Read(b); err != nil || string(b) != "HTTP/1.0 200 OK" {
		t.Errorf("it says %s, %v", b, err)
	}
	file := filepath.Join(s.dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "serve", "--listen", s.socket+"2", "--metrics", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "exists and is not a socket") {
		t.Errorf("over a file: %s, %v", out, err)
	}
}

// TestSystemd: a socket that is passed as systemd does it is served, and the manager is told when it is ready.
func TestSystemd(t *testing.T) {
	t.Run("only the socket", func(t *testing.T) { passesSocket(t, "") })
	t.Run("and its path", func(t *testing.T) { passesSocket(t, "--listen m") })
}

func passesSocket(t *testing.T, listen string) {
	dir, err := os.MkdirTemp("", "ramjet-systemd-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "m")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listen = strings.Replace(listen, " m", " "+filepath.Join(dir, "m"), 1)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	passed, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	// The shell's process becomes ramjet's, whose number LISTEN_PID has.
	c := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" serve --memory m=1M `+listen, program)
	c.Env = append(os.Environ(), "LISTEN_FDS=1", "NOTIFY_SOCKET="+filepath.Join(dir, "n"))
	c.ExtraFiles = []*os.File{passed}
	var said strings.Builder
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	defer func() { c.Process.Kill(); <-ended }()
	go func() { <-ended; notify.Close() }()
	b := make([]byte, 100)
	n, err := notify.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Fatalf("it is told %q, %v; %s", b[:n], err, said.String())
	}
	s := &server{socket: filepath.Join(dir, "m")}
	conn, greeting, err := s.dial()
	if err != nil || !strings.HasPrefix(greeting, `{"QMP"`) {
		t.Fatal(greeting, err)
	}
	defer conn.conn.Close()
}
