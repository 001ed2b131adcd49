// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

func TestRelativePaths(t *testing.T) {
	args := "-hda a -drive file=b,if=virtio -drive file=nbd:host:1 -blockdev driver=file,node-name=n,filename=c -qmp unix:d,server=on -serial stdio -kernel e -pidfile /f " +
		"-chardev socket,id=s,path=g,server=on -object memory-backend-file,id=m,size=1M,mem-path=h -m 1G -S -monitor file:i -device virtio-net-pci,romfile="
	if got := strings.Join(cmdline.ParseArgs(strings.Fields(args)).RelativePaths(), " "); got != "a b c d e g h i" {
		t.Error(got)
	}
}

func TestLeavesDirectory(t *testing.T) {
	for args, want := range map[string]bool{"-daemonize": true, "-chroot /x": true, "-run-with chroot=/x": true, "-run-with user=x": false, "-m 1G": false} {
		if got := cmdline.ParseArgs(strings.Fields(args)).LeavesDirectory(); got != want {
			t.Errorf("%s: %v", args, got)
		}
	}
}

// TestStartDirectory has a process that left its directory, with a file of it open, or only with $PWD.
func TestStartDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"disk", "socket"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		script, pwd string
		relative    []string
		want        string
	}{
		{"exec 5<disk; cd /; echo; read x", "/", []string{"disk", "socket"}, dir},
		{"cd /; echo; read x", dir, []string{"disk"}, dir},
		{"cd /; echo; read x", "/", []string{"disk"}, ""},
		{"exec 5<disk; cd /; echo; read x", "/", []string{"disk", "gone"}, ""},
	} {
		p := exec.Command("sh", "-c", c.script)
		p.Dir, p.Env = dir, []string{"PWD=" + c.pwd}
		in, err := p.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Fscanln(out)
		if got := startDirectory(fmt.Sprintf("/proc/%d", p.Process.Pid), c.relative); got != c.want {
			t.Errorf("%s in %s with PWD=%s: %q", c.script, dir, c.pwd, got)
		}
		in.Close()
		p.Wait()
	}
}
