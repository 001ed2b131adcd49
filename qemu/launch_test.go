// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// program makes an executable of a shell script.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStartFails has a QEMU that ends before it greets: the error is what it said last, if it said something.
func TestStartFails(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{"echo 'qemu-system-x86_64: -foo: invalid option' >&2; exit 1", "QEMU ended: -foo: invalid option"},
		{"echo '/usr/bin/qemu-system-x86_64: one' >&2; echo 'qemu-system-x86_64: warning: two' >&2; exit 1", "QEMU ended: one"},
		{"echo 'cannot open /usr/share/qemu/bios' >&2; exit 1", "QEMU ended: cannot open /usr/share/qemu/bios"},
		{"exit 3", "QEMU ended with exit status 3"},
		{"kill -SEGV $$", "QEMU ended with signal: segmentation fault"},
		{"head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1", "QEMU ended: xxx"},
	} {
		for _, detach := range []bool{false, true} {
			l := &Launch{CommandLine: CommandLine{Executable: program(t, c.script)}, Detach: detach}
			in, err := l.Start(context.Background())
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s, detached %v: %v", c.script, detach, err)
			}
			if in != nil {
				in.Kill()
			}
		}
	}
	l := &Launch{CommandLine: CommandLine{Executable: "/nonexistent/qemu"}}
	if _, err := l.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "/nonexistent/qemu") {
		t.Errorf("no program: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	l.Executable = program(t, "exec sleep 100")
	began := time.Now()
	if _, err := l.Start(ctx); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("a program that never greets: %v after %v", err, time.Since(began))
	}
}

func TestFinalArgs(t *testing.T) {
	const ours = " -chardev socket,id=ramjet,fd=200 -mon chardev=ramjet,mode=control -incoming defer -S"
	for _, c := range []struct{ args, socket, want string }{
		{"", "", ours},
		{"-m 1G -S -incoming tcp:0:1 -daemonize -smp 2", "", "-m 1G -smp 2" + ours},
		{"-qmp unix:/old,server=on -monitor stdio", "/new", "-monitor stdio -qmp unix:/new,server=on,wait=off" + ours},
		{"-qmp unix:/old,server=on", "", "-qmp unix:/old,server=on" + ours},
		{"-loadvm there -preconfig -m 1G", "", "-m 1G" + ours},
		{"-chardev null,id=ramjet", "", "-chardev null,id=ramjet" + strings.ReplaceAll(ours, "=ramjet", "=ramjet1")},
		{"-chardev socket,id=c,path=/old,server=on -mon chardev=c,mode=control", "/n,1", "-qmp unix:/n,,1,server=on,wait=off" + ours},
	} {
		l := &Launch{CommandLine: CommandLine{Args: strings.Fields(c.args)}, Socket: c.socket}
		if got := strings.Join(l.FinalArgs().Words(), " "); got != strings.TrimSpace(c.want) {
			t.Errorf("%s becomes\n%s, want\n%s", c.args, got, c.want)
		}
	}
}

func TestCheckMonitors(t *testing.T) {
	dir := t.TempDir()
	served, err := net.Listen("unix", filepath.Join(dir, "served"))
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "stale")})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"stale": "", "new": "", "served": "has its monitor at", "file": "not a socket", strings.Repeat("long", 30): "107 bytes",
	} {
		for _, l := range []*Launch{
			{Socket: filepath.Join(dir, path)},
			{CommandLine: CommandLine{Dir: dir, Args: []string{"-qmp", "unix:" + path + ",server=on,wait=off"}}},
		} {
			err := l.CheckFree()
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

func TestFindExecutable(t *testing.T) {
	if path, err := FindExecutable("sh"); err != nil || !filepath.IsAbs(path) {
		t.Errorf("sh: %s, %v", path, err)
	}
	if _, err := FindExecutable("qemu-of-nobody"); err == nil || !strings.Contains(err.Error(), "qemu-of-nobody") {
		t.Error(err)
	}
}

// TestGivenArguments has a command line that is not UTF-8 come back from the environment that a restored QEMU has.
// (Issue 15, point 17.)
func TestGivenArguments(t *testing.T) {
	given := []string{"-drive", "file=/x/\xe9.img", "-name", "été"}
	l := &Launch{Given: given}
	env, err := l.environment()
	if err != nil {
		t.Fatal(err)
	}
	proc := t.TempDir()
	if err := os.WriteFile(proc+"/environ", []byte(strings.Join(env, "\x00")), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := givenArgs(proc); !slices.Equal(got, given) {
		t.Errorf("%q, want %q", got, given)
	}
}
