// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// hostileMemory is what a command may take of memory on a file whatever is in it, in KiB.
const hostileMemory = 64 << 10

// measure in the environment names a program for this one to run instead of tests, and to print its peak resident memory
// in KiB. The kernel counts with it what a process was before it became another program, so its parent has to be small.
const measure = "RAMJET_TEST_MEASURE"

func init() {
	name := os.Getenv(measure)
	if name == "" {
		return
	}
	c := exec.Command(name, os.Args[1:]...)
	c.Stderr = os.Stderr
	c.Run()
	fmt.Print(c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	os.Exit(c.ProcessState.ExitCode())
}

// TestHostileFiles runs what looks at files on every hostile file there is: none makes it crash, hang or take much
// memory, and what it says is a line.
func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	files := corpusFiles(t, dir)
	files = append(files, giants(t, dir)...)
	good := files[0]
	var most int64
	for _, f := range files {
		for _, args := range [][]string{
			{"inspect", "--map", "--device-state", f}, {"inspect", "--json", "--device-state", "--map=" + filepath.Join(dir, "map.svg"), f},
			{"verify", "--json", f}, {"diff", "--map", f, f}, {"diff", "--json", f, good},
		} {
			most = max(most, hostileRun(t, args))
		}
	}
	t.Logf("%d files, at most %d KiB", len(files), most)
}

// hostileRun runs the program and returns its peak resident memory in KiB.
func hostileRun(t *testing.T, args []string) int64 {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	c := exec.Command(self, args...)
	c.Env = append(os.Environ(), measure+"="+program)
	c.Stdout, c.Stderr = &out, &stderr
	err = c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	status, said := c.ProcessState.ExitCode(), stderr.String()
	if status != 0 && status != 1 && status != 3 || strings.Count(said, "\n") > 1 || (status != 0) != (said != "") {
		t.Errorf("ramjet %s: status %d, says %.2000q", strings.Join(args, " "), status, said)
	}
	peak, err := strconv.ParseInt(out.String(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if peak > hostileMemory {
		t.Errorf("ramjet %s takes %d KiB", strings.Join(args, " "), peak)
	}
	return peak
}

// corpusFiles makes files of the fuzzers' corpora. The first one is well.
func corpusFiles(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob("../../*/testdata/fuzz/*/*")
	if err != nil || len(list) < 100 {
		t.Fatalf("%d cases, %v", len(list), err)
	}
	files := []string{""}
	for _, path := range list {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, fmt.Sprintf("%d-%s", len(files), filepath.Base(path)))
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		// FuzzOpen of mappedram has the file's size and what is at three places; the others have content.
		places, size := []int64{0, 0x101000, 0x201000}, int64(-1)
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if n, ok := strings.CutPrefix(line, "int64("); ok && size < 0 {
				size, _ = strconv.ParseInt(strings.TrimSuffix(n, ")"), 10, 64)
			}
			if s, ok := strings.CutPrefix(line, "[]byte("); ok && len(places) > 0 {
				content, err := strconv.Unquote(strings.TrimSuffix(s, ")"))
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				f.WriteAt([]byte(content), places[0])
				places = places[1:]
			}
		}
		if size >= 0 {
			f.Truncate(min(size, 1<<42))
		}
		f.Close()
		if filepath.Base(path) == "good" && files[0] == "" {
			files[0] = out
		} else {
			files = append(files, out)
		}
	}
	if files[0] == "" {
		t.Fatal("no case is well")
	}
	return files
}

// giants are files in which everything is as large as it may be, most of it holes.
func giants(t *testing.T, dir string) (files []string) {
	t.Helper()
	config := vmstate.Config{MachineType: "pc-i440fx-10.0", Capabilities: []string{"mapped-ram"}}
	make := func(name string, blocks []mappedram.Block, sections, description []byte, finish func(f *os.File, end int64, l *mappedram.Layout)) {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		l, err := mappedram.NewLayout(0, config, blocks)
		if err == nil {
			err = l.WriteHeaders(f)
		}
		var end int64
		if err == nil {
			end, err = l.WriteTail(f, sections, description)
		}
		if err == nil {
			err = l.WriteMagic(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		if finish != nil {
			finish(f, end, l)
		}
		files = append(files, path)
	}
	small := []mappedram.Block{{Name: "pc.ram", Length: 1 << 20}}
	sections := vmstate.AppendFooter(append(vmstate.AppendSectionStart(nil, vmstate.TypeFull, 7, "device", 0, 1), 1, 2, 3), 7)

	make("large-block", []mappedram.Block{{Name: "pc.ram", Length: 1 << 40}}, sections, nil, nil)
	var many []mappedram.Block
	for i := range mappedram.MaxBlocks {
		many = append(many, mappedram.Block{Name: fmt.Sprintf("%0250d", i), Length: 4096})
	}
	make("many-blocks", many, sections, nil, nil)

	state := append(vmstate.AppendSectionStart(nil, vmstate.TypeFull, 7, "device", 0, 1), bytes.Repeat([]byte{0xff}, 48<<20)...)
	make("large-device", small, vmstate.AppendFooter(state, 7), nil, nil)
	var tiny []byte
	for range 200_000 {
		tiny = append(vmstate.AppendSectionStart(tiny, vmstate.TypeFull, 7, "d", 0, 1), 0x7e, 0, 0, 0, 7)
	}
	make("many-devices", small, tiny, nil, nil)
	make("many-devices-but-not-too-many", small, tiny[:19*65000], nil, nil)

	fields := strings.Repeat(`{"name":"x","type":"uint8","size":1},`, 90_000)
	large := fmt.Sprintf(`{"page_size":4096,"devices":[{"name":"device","instance_id":0,"vmsd_name":"d","version":1,"fields":[%s{"name":"y","size":1}]}]}`, fields)
	make("large-description", small, vmstate.AppendFooter(append(vmstate.AppendSectionStart(nil, vmstate.TypeFull, 7, "device", 0, 1), bytes.Repeat([]byte{1}, 90_001)...), 7), []byte(large), nil)
	make("long-description", small, sections, []byte(`{"page_size":4096,"devices":[{"name":"`+strings.Repeat("x", vmstate.MaxDescription-200)+`"}]}`), nil)

	for name, line := range map[string][]string{
		"long-command-line": {strings.Repeat("x", seal.MaxMetadata-1000)},
		"many-arguments":    strings.Split(strings.Repeat("-name ", seal.MaxArguments-1)+"x", " "),
	} {
		make(name, small, sections, nil, func(f *os.File, end int64, l *mappedram.Layout) {
			w, err := seal.NewWriter(f, end, &seal.Metadata{CommandLine: line, Blocks: []seal.Block{{Name: "pc.ram", Length: 1 << 20, PageSize: 4096}}})
			if err == nil {
				_, _, err = w.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	libvirt := append([]byte("LibvirtQemudSave\x02\x00\x00\x00\xff\xff\xff\x00\x01\x00\x00\x00\x06\x00\x00\x00"), bytes.Repeat([]byte{0}, 60)...)
	libvirt = append(libvirt, bytes.Repeat([]byte("<x>"), 6<<20)...)
	for name, content := range map[string][]byte{"libvirt": libvirt, "magics": bytes.Repeat([]byte("QEVM\x00\x00\x00\x03"), 4<<20)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	return files
}
