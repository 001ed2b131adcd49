// SPDX-License-Identifier: Apache-2.0

package guestmem

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/ramjet-vm/ramjet/internal/sys"
	"golang.org/x/sys/unix"
)

// The tests look at the memory of a process of their own: this program again, which maps memory as it is told and changes
// it as it is told. What it was told is the oracle.

const helperKind = "RAMJET_GUESTMEM_KIND"

func TestMain(m *testing.M) {
	if kind := os.Getenv(helperKind); kind != "" {
		if err := help(kind, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	pages  = 1500 // of the block
	margin = 40   // pages mapped around it that are not its own
)

// kinds are how memory can be mapped. Those of a file have base contents in them.
var kinds = []string{"anonymous", "memfd", "shared anonymous", "private memfd", "file", "private file"}

func isPrivateFile(kind string) bool { return kind == "private memfd" || kind == "private file" }

// baseSeed is what page i of a file beneath a private mapping holds: nothing, in a hole, or something.
func baseSeed(i int) byte {
	if i/7%3 == 1 {
		return byte(i%200) + 1
	}
	return 0
}

// pattern is a page's content for a seed; all zeros for seed 0.
func pattern(i int, seed byte) []byte {
	if seed == 0 {
		return make([]byte, PageSize)
	}
	return bytes.Repeat([]byte{seed, byte(i), byte(i >> 8), seed ^ 0x55}, PageSize/4)
}

// help is the helper's life: it maps, says where, and carries out commands of three bytes and more: what, page.
func help(kind string, in io.Reader, out io.Writer) error {
	mem, err := mapKind(kind)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d\n", uintptr(unsafe.Pointer(&mem[margin*PageSize])))
	block := mem[margin*PageSize : (margin+pages)*PageSize]
	var sum byte
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var what string
		var i int
		var seed byte
		if _, err := fmt.Sscan(lines.Text(), &what, &i, &seed); err != nil {
			return err
		}
		p := block[i*PageSize : (i+1)*PageSize]
		switch what {
		case "write":
			copy(p, pattern(i, seed))
		case "read":
			sum += p[0]
		case "drop":
			err = unix.Madvise(p, unix.MADV_DONTNEED)
		case "split":
			err = unix.Madvise(p, unix.MADV_DONTDUMP)
		case "remap": // another page of the same file
			_, _, errno := unix.Syscall6(unix.SYS_MMAP, uintptr(unsafe.Pointer(&p[0])), PageSize,
				unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED, uintptr(mapped), 0)
			if errno != 0 {
				err = errno
			}
		case "unmap":
			_, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(unsafe.Pointer(&p[0])), PageSize, 0)
			if errno != 0 {
				err = errno
			}
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%d\n", sum)
	}
	return nil
}

// mapped is the descriptor of the helper's file.
var mapped = -1

func mapKind(kind string) ([]byte, error) {
	const size = (pages + 2*margin) * PageSize
	flags, fd := unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1
	offset := int64(0)
	switch kind {
	case "shared anonymous":
		flags = unix.MAP_SHARED | unix.MAP_ANONYMOUS
	case "memfd", "private memfd":
		var err error
		if fd, err = unix.MemfdCreate("memory", 0); err != nil {
			return nil, err
		}
	case "file", "private file":
		f, err := os.Create(os.Getenv(helperKind + "_FILE"))
		if err != nil {
			return nil, err
		}
		fd, offset = int(f.Fd()), 1<<20
	}
	if mapped = fd; fd >= 0 {
		if err := unix.Ftruncate(fd, offset+size); err != nil {
			return nil, err
		}
		if flags = unix.MAP_SHARED; isPrivateFile(kind) {
			flags = unix.MAP_PRIVATE
			for i := range pages {
				if s := baseSeed(i); s != 0 {
					if _, err := unix.Pwrite(fd, pattern(i, s), offset+int64(margin+i)*PageSize); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	mem, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_NORESERVE)
	if err == nil {
		unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	}
	return mem, err
}

// guest is a helper process as a test sees it.
type guest struct {
	t     *testing.T
	kind  string
	pid   int
	addr  uint64
	in    io.Writer
	out   *bufio.Reader
	calls *sys.Calls  // by which its memory is reached, for tests to change
	seeds [pages]byte // what each page has to hold
}

func newGuest(t *testing.T, kind string) *guest {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), helperKind+"="+kind, helperKind+"_FILE="+filepath.Join(t.TempDir(), "memory"))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); c.Process.Kill(); c.Wait() })
	g := &guest{t: t, kind: kind, pid: c.Process.Pid, in: in, out: bufio.NewReader(out), calls: sys.Kernel()}
	if _, err := fmt.Fscanln(g.out, &g.addr); err != nil {
		t.Fatal(err)
	}
	if isPrivateFile(kind) {
		for i := range g.seeds {
			g.seeds[i] = baseSeed(i)
		}
	}
	return g
}

// do has the helper carry out a command, and the oracle remember it.
func (g *guest) do(what string, page int, seed byte) {
	g.t.Helper()
	fmt.Fprintf(g.in, "%s %d %d\n", what, page, seed)
	if _, err := g.out.ReadString('\n'); err != nil {
		g.t.Fatalf("%s %d: the helper is gone: %v", what, page, err)
	}
	switch {
	case what == "write":
		g.seeds[page] = seed
	case what == "drop" && g.kind == "anonymous":
		g.seeds[page] = 0
	case what == "drop" && isPrivateFile(g.kind):
		g.seeds[page] = baseSeed(page)
	}
}

func (g *guest) open(access Access) Memory {
	g.t.Helper()
	m, err := Open(g.pid, g.addr, pages*PageSize, access, g.calls)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { m.Close() })
	return m
}
