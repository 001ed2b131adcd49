// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/restore"
	"github.com/ramjet-vm/ramjet/save"
	"github.com/ramjet-vm/ramjet/transfer"
	"github.com/ramjet-vm/ramjet/vmstate"
)

func TestMain(m *testing.M) {
	save.RunAttendant()
	restore.RunAttendant()
	if os.Getenv(asProgram) != "" {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){
		"ramjet": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// asProgram in the environment makes this test the program that it tests.
const asProgram = "RAMJET_TEST_AS_PROGRAM"

// TestMistakes runs testdata/*.txtar: what users do wrong, and the one line that they get for it.
func TestMistakes(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: furnish,

		ContinueOnError: true,
		Cmds:            map[string]func(*testscript.TestScript, bool, []string){"mistake": mistake, "json": oneObject},
	})
}

// mistake STATUS LINE ARGS... runs ramjet with ARGS, which has to end with this status, say exactly this line, and print nothing;
// with --json it has to print the line and the status as well.
func mistake(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mistake STATUS LINE ARGS...")
	}
	ends(ts, args[0], args[2:])
	if got, want := ts.ReadFile("stderr"), "ramjet: "+args[1]+"\n"; got != want {
		ts.Fatalf("it says\n%swant\n%s", got, want)
	}
	if got := ts.ReadFile("stdout"); got != "" {
		ts.Fatalf("it prints %q", got)
	}
	ends(ts, args[0], append([]string{"--json"}, args[2:]...))
	failure := theObject(ts)
	if status, _ := strconv.Atoi(args[0]); failure["error"] != args[1] || failure["status"] != float64(status) {
		ts.Fatalf("with --json it prints %v", failure)
	}
}

// ends runs ramjet, which has to end with this status.
func ends(ts *testscript.TestScript, want string, args []string) {
	status := 0
	err := ts.Exec("ramjet", args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(status) != want {
		ts.Fatalf("status %d, want %s", status, want)
	}
}

// oneObject STATUS ARGS... runs ramjet with ARGS and --json: one object on one line, and no other output unless it fails.
func oneObject(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: json STATUS ARGS...")
	}
	ends(ts, args[0], append([]string{"--json"}, args[1:]...))
	object := theObject(ts)
	_, failed := object["error"]
	if stderr := ts.ReadFile("stderr"); args[0] == "0" && (stderr != "" || failed) {
		ts.Fatalf("it says %q and prints %v", stderr, object)
	}
	if args[0] != "0" && !failed {
		ts.Fatalf("it failed, and prints only %v", object)
	}
}

// theObject is the one JSON object, on one line, that standard output has to be.
func theObject(ts *testscript.TestScript) map[string]any {
	out := ts.ReadFile("stdout")
	var object map[string]any
	if err := json.Unmarshal([]byte(out), &object); err != nil || strings.Count(out, "\n") != 1 {
		ts.Fatalf("it prints %q: %v", out, err)
	}
	return object
}

// furnish puts what mistakes are made with into the working directory.
func furnish(e *testscript.Env) error {
	in := func(name string) string { return filepath.Join(e.WorkDir, name) }
	if err := ownImage(in("good.img")); err != nil {
		return err
	}
	whole, err := os.ReadFile(in("good.img"))
	if err != nil {
		return err
	}
	unfinished := append(make([]byte, 8), whole[8:]...)
	return errors.Join(
		os.Mkdir(in("directory"), 0o755),
		os.WriteFile(in("empty"), nil, 0o644),
		os.WriteFile(in("letter.txt"), []byte("Dear reader,\n"), 0o644),
		os.WriteFile(in("cut.img"), whole[:len(whole)/2], 0o644),
		os.WriteFile(in("unfinished.img"), unfinished, 0o644),
		listen(e, in("other.sock"), func(c net.Conn) { c.Write([]byte("220 mail.example ESMTP\r\n")) }),
		listen(e, in("closes.sock"), func(net.Conn) {}),
		deadSocket(in("dead.sock")),
	)
}

// listen has something that is no QEMU behind a socket.
func listen(e *testscript.Env, path string, talk func(net.Conn)) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	e.Defer(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			talk(c)
			c.Close()
		}
	}()
	return nil
}

// deadSocket is what a QEMU that was killed leaves.
func deadSocket(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// ownImage is the image of a megabyte that says so in each of its pages.
func ownImage(path string) error {
	const size = 1 << 20
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "memory")
	if err := f.Truncate(size); err != nil {
		return err
	}
	for i := range int64(size / guestmem.PageSize) {
		if _, err := f.WriteAt([]byte("page "+strconv.FormatInt(i, 10)), i*guestmem.PageSize); err != nil {
			return err
		}
	}
	m, err := guestmem.OpenFile(f, 0, size, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	layout, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "none", Capabilities: []string{"mapped-ram"}},
		[]mappedram.Block{{Name: "ram", Length: size}})
	if err != nil {
		return err
	}
	image, err := os.Create(path)
	if err != nil {
		return err
	}
	defer image.Close()
	s := &transfer.Save{Layout: layout, Memory: []guestmem.Memory{m}, Image: directio.Path(path)}
	if err := errors.Join(image.Truncate(layout.RAMEnd), s.Run(context.Background()), layout.WriteHeaders(image)); err != nil {
		return err
	}
	if err := layout.WriteBitmap(image, 0, s.Stored[0]); err != nil {
		return err
	}
	if _, err := layout.WriteTail(image, nil, nil); err != nil {
		return err
	}
	return layout.WriteMagic(image)
}
