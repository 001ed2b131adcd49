// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

func TestSplitCommand(t *testing.T) {
	for command, want := range map[string]string{
		"":                               "||",
		"-m 1G":                          "||-m 1G",
		"qemu-system-x86_64 -m 1G":       "|qemu-system-x86_64|-m 1G",
		"/opt/mine -m 1G":                "|/opt/mine|-m 1G",
		"nice -n 5 qemu-system-x86_64 x": "nice -n 5|qemu-system-x86_64|x",
		"env A=b setpriv --inh-caps=-all /usr/bin/qemu-system-i386":    "env A=b setpriv --inh-caps=-all|/usr/bin/qemu-system-i386|",
		"ip netns exec blue /usr/libexec/qemu-kvm -name qemu-system-x": "ip netns exec blue|/usr/libexec/qemu-kvm|-name qemu-system-x",
	} {
		wrapper, program, args := cmdline.SplitCommand(strings.Fields(command))
		if got := strings.Join(wrapper, " ") + "|" + program + "|" + strings.Join(args, " "); got != want {
			t.Errorf("%q is %q, want %q", command, got, want)
		}
	}
}

// TestWrapperForks has a wrapper that forks, and a program that does not greet: nothing of them is left.
func TestWrapperForks(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pid")
	fake := program(t, "echo $$ >"+mark+"; exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	l := &Launch{CommandLine: CommandLine{Executable: fake}, Wrapper: []string{"sh", "-c", `"$0" "$@"; true`}}
	if _, err := l.Start(ctx); err == nil {
		t.Fatal("a program that never greets was taken")
	}
	text, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(text))
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			exec.Command("kill", "-9", pid).Run()
			t.Fatalf("process %s, behind the wrapper, is left", pid)
		}
	}
}

func TestDescendants(t *testing.T) {
	c := exec.Command("sh", "-c", "sleep 100 & wait")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer killTree(c.Process.Pid)
	for deadline := time.Now().Add(5 * time.Second); len(descendants(c.Process.Pid)) != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a shell and its child are %v", descendants(c.Process.Pid))
		}
	}
	all := fmt.Sprint(descendants(os.Getpid()))
	if child := fmt.Sprint(descendants(c.Process.Pid)[1]); !strings.Contains(all, child) {
		t.Errorf("of this process there are %s, and not %s", all, child)
	}
	for deadline := time.Now().Add(5 * time.Second); qemuBehind(c.Process.Pid, "100") == c.Process.Pid; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process with 100 on its command line is not found")
		}
	}
}
