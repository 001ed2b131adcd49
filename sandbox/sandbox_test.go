// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// What is given up does not come back, so each test is this program again.
const helper = "RAMJET_SANDBOX_TEST"

func TestMain(m *testing.M) {
	switch dir := os.Getenv(helper + "_DIR"); os.Getenv(helper) {
	case "files":
		files(dir)
	case "calls":
		systemCalls(dir)
	case "calls, then files":
		say("both:", errors.Join(Calls(Group{Action: seccomp.ActionAllow, Names: []string{"landlock_add_rule", "landlock_restrict_self"},
			NamesWithCondtions: []seccomp.NameWithConditions{OpenExisting, With("prctl", 0, seccomp.Equal, unix.PR_SET_NO_NEW_PRIVS)}}), Files()))
		say("open a file:", opened("/etc/passwd", 0))
	default:
		os.Exit(m.Run())
	}
}

// other is memory that a child of the test reads.
var other = []byte("something of another process")

// again runs a helper, and compares what it says with what is wanted: a line for each thing that it tries.
func again(t *testing.T, what string, want string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"file", "old", "below/file"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, "images", name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "images", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "/proc/self/exe")
	c.Env = append(os.Environ(), helper+"="+what, helper+"_DIR="+dir, fmt.Sprintf("%s_ADDR=%d", helper, uintptr(unsafe.Pointer(&other[0]))))
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.HasPrefix(string(out), "missing") {
		t.Skip(string(out))
	}
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		if !strings.Contains(string(out), strings.TrimSpace(line)+"\n") {
			t.Errorf("it is not so: %s", line)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// say prints what came of something.
func say(what string, err error) {
	var errno unix.Errno
	switch {
	case err == nil:
		fmt.Println(what, "yes")
	case errors.As(err, &errno):
		fmt.Println(what, unix.ErrnoName(errno))
	default:
		fmt.Println(what, err)
	}
}

func opened(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func try[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// files is what a save does: it makes an image, gives up the file system, and publishes.
func files(dir string) {
	images, parent := filepath.Join(dir, "images"), os.Getppid()
	proc := fmt.Sprintf("/proc/%d/", parent)
	image := try(os.OpenFile(images, unix.O_TMPFILE|os.O_RDWR, 0o600))
	mem, err := os.Open(proc + "mem")
	if err != nil {
		fmt.Println("missing: ptrace(2) access:", err)
		return
	}
	pagemap, cmdline := try(os.Open(proc+"pagemap")), try(os.Open(proc+"cmdline"))
	var addr int64
	fmt.Sscan(os.Getenv(helper+"_ADDR"), &addr)
	p := make([]byte, len(other))
	if err := Files(Names(images)); err != nil {
		fmt.Println("missing:", err)
		return
	}
	self := fmt.Sprintf("/proc/self/fd/%d", image.Fd())
	say("open the image again:", opened(self, unix.O_WRONLY))
	_, err = image.WriteAt(p, 0)
	say("write to it:", err)
	say("open its directory:", opened(images, unix.O_DIRECTORY))
	say("name it:", unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, images+"/hidden", unix.AT_SYMLINK_FOLLOW))
	say("replace a file by it:", unix.Rename(images+"/hidden", images+"/old"))
	say("name it elsewhere:", unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, dir+"/hidden", unix.AT_SYMLINK_FOLLOW))
	say("open the file beside:", opened(images+"/file", 0))
	say("write the file below:", opened(images+"/below/file", unix.O_WRONLY))
	say("make a file:", opened(images+"/new", unix.O_CREAT|unix.O_WRONLY))
	say("open another file:", opened("/etc/passwd", 0))
	say("run a program:", unix.Exec("/bin/true", []string{"true"}, nil))
	_, err = mem.ReadAt(p, addr)
	say("memory, opened before:", err)
	_, err = pagemap.ReadAt(p[:8], addr/4096*8)
	say("pagemap, opened before:", err)
	_, err = cmdline.ReadAt(p[:1], 0)
	say("command line, opened before:", err)
	say("memory, opened now:", opened(proc+"mem", 0))
	say("memory map:", opened(proc+"maps", 0))
	local := []unix.Iovec{{Base: &p[0]}}
	local[0].SetLen(len(p))
	_, err = unix.ProcessVMReadv(parent, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(p)}}, 0)
	say("process_vm_readv:", err)
}

func TestFiles(t *testing.T) {
	again(t, "files", `
		open the image again: EACCES
		write to it: yes
		open its directory: yes
		name it: yes
		replace a file by it: yes
		name it elsewhere: EACCES
		open the file beside: EACCES
		write the file below: EACCES
		make a file: EACCES
		open another file: EACCES
		run a program: EACCES
		memory, opened before: yes
		pagemap, opened before: yes
		command line, opened before: yes
		memory, opened now: EACCES
		memory map: EACCES
		process_vm_readv: EPERM`)
}

// systemCalls gives up all but some calls.
func systemCalls(dir string) {
	null, parent := try(os.Open("/dev/null")), os.Getppid()
	err := Calls(Group{
		Action: seccomp.ActionAllow,
		Names:  []string{"prctl"},
		NamesWithCondtions: []seccomp.NameWithConditions{
			OpenExisting,
			With("process_vm_readv", 0, seccomp.Equal, uint64(parent)),
			With("ioctl", 1, seccomp.Equal, unix.TCGETS),
			With("ioctl", 1, seccomp.Equal, unix.TIOCGWINSZ),
		},
	})
	if err != nil {
		fmt.Println("missing:", err)
		return
	}
	privs, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	fmt.Println("no_new_privs:", privs, err)
	say("open a file:", opened(dir+"/images/file", unix.O_RDWR))
	say("truncate it:", opened(dir+"/images/file", unix.O_RDWR|unix.O_TRUNC))
	say("make one:", opened(dir+"/images/new", unix.O_RDWR|unix.O_CREAT))
	say("remove one:", unix.Unlink(dir+"/images/file"))
	say("run a program:", unix.Exec("/bin/true", []string{"true"}, nil))
	_, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	say("a socket:", err)
	say("a signal:", unix.Kill(parent, 0))
	var addr uintptr
	fmt.Sscan(os.Getenv(helper+"_ADDR"), &addr)
	local := []unix.Iovec{{Base: &make([]byte, len(other))[0], Len: uint64(len(other))}}
	_, err = unix.ProcessVMReadv(parent, local, []unix.RemoteIovec{{Base: addr, Len: len(other)}}, 0)
	say("the memory of the VM's process:", err)
	_, err = unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: addr, Len: len(other)}}, 0)
	say("that of another:", err)
	_, err = unix.IoctlGetTermios(int(null.Fd()), unix.TCGETS)
	say("an ioctl:", err)
	_, err = unix.IoctlGetInt(int(null.Fd()), unix.TIOCSTI)
	say("another ioctl:", err)
}

func TestCalls(t *testing.T) {
	again(t, "calls", `
		no_new_privs: 1 <nil>
		open a file: yes
		truncate it: EPERM
		make one: EPERM
		remove one: EPERM
		run a program: EPERM
		a socket: EPERM
		a signal: EPERM
		the memory of the VM's process: yes
		that of another: EPERM
		an ioctl: ENOTTY
		another ioctl: EPERM`)
}

// TestBoth has the file system go under a filter, as a save does. With cgo that cannot be, and must not be waited for.
func TestBoth(t *testing.T) {
	if withCgo {
		again(t, "calls, then files", `
			both: no Landlock: this program was built with cgo (CGO_ENABLED=0 makes one that can)
			open a file: yes`)
		return
	}
	again(t, "calls, then files", `
		both: yes
		open a file: EACCES`)
}
