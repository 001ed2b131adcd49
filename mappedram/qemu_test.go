// SPDX-License-Identifier: Apache-2.0

package mappedram

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/vmstate"
)

// qemuProgram is the QEMU that the tests run on.
var qemuProgram = cmp.Or(os.Getenv("RAMJET_QEMU"), "qemu-system-x86_64")

// qemu is a QEMU whose monitor is its standard input and output.
type qemu struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

// startQEMU starts the machine of the worked example. It skips the test without a QEMU that has mapped-ram and direct
// I/O on descriptor sets.
func startQEMU(t *testing.T, dir string, args ...string) *qemu {
	t.Helper()
	if _, err := exec.LookPath(qemuProgram); err != nil {
		t.Skip("no " + qemuProgram)
	}
	args = append([]string{"-machine", "pc,accel=tcg", "-m", "8M", "-nodefaults", "-S", "-display", "none", "-qmp", "stdio"}, args...)
	q := &qemu{t: t, cmd: exec.Command(qemuProgram, args...)}
	q.cmd.Dir, q.cmd.Stderr = dir, &q.stderr
	var err error
	q.in, err = q.cmd.StdinPipe()
	check(t, err)
	out, err := q.cmd.StdoutPipe()
	check(t, err)
	check(t, q.cmd.Start())
	t.Cleanup(func() { q.stop() })
	watchdog := time.AfterFunc(time.Minute, func() { q.cmd.Process.Kill() })
	t.Cleanup(func() { watchdog.Stop() })
	q.out = bufio.NewReader(out)
	var greeting struct {
		QMP struct {
			Version struct {
				QEMU struct{ Major, Minor int }
			}
		}
	}
	line, err := q.out.ReadBytes('\n')
	check(t, err)
	check(t, json.Unmarshal(line, &greeting))
	if v := greeting.QMP.Version.QEMU; v.Major < 9 || v.Major == 9 && v.Minor < 1 {
		t.Skipf("QEMU %d.%d is older than 9.1", v.Major, v.Minor)
	}
	q.do(`{"execute":"qmp_capabilities"}`)
	return q
}

// do executes one command and returns what it returned.
func (q *qemu) do(command string) json.RawMessage {
	q.t.Helper()
	_, err := fmt.Fprintln(q.in, command)
	check(q.t, err)
	for {
		line, err := q.out.ReadBytes('\n')
		if err != nil {
			q.t.Fatalf("%s: %v, %s", command, err, &q.stderr)
		}
		var answer struct{ Return, Error json.RawMessage }
		check(q.t, json.Unmarshal(line, &answer))
		switch {
		case answer.Error != nil:
			q.t.Fatalf("%s: %s", command, answer.Error)
		case answer.Return != nil:
			return answer.Return
		}
	}
}

// migrated waits for the end of a migration, out or in.
func (q *qemu) migrated() {
	q.t.Helper()
	for {
		var m struct {
			Status string
			Error  string `json:"error-desc"`
		}
		check(q.t, json.Unmarshal(q.do(`{"execute":"query-migrate"}`), &m))
		switch m.Status {
		case "completed":
			return
		case "failed":
			q.t.Fatalf("migration failed: %s, %s", m.Error, &q.stderr)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (q *qemu) mappedRAM() {
	q.do(`{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"mapped-ram","state":true}]}}`)
}

func (q *qemu) stop() {
	if q.cmd.ProcessState == nil {
		q.in.Close()
		q.cmd.Process.Kill()
		q.cmd.Wait()
	}
}

func open(t *testing.T, path string) (*os.File, *Image) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	check(t, err)
	m, err := Open(f, info.Size())
	check(t, err)
	return f, m
}

// saveWithQEMU has QEMU write a mapped-ram file.
func saveWithQEMU(t *testing.T, dir, uri string) {
	q := startQEMU(t, dir)
	q.mappedRAM()
	q.do(`{"execute":"migrate","arguments":{"uri":"file:` + uri + `"}}`)
	q.migrated()
	q.stop()
}

// TestReadQEMU reads what QEMU wrote, at an offset too, and takes all of its device state apart.
func TestReadQEMU(t *testing.T) {
	for uri, offset := range map[string]int64{"image": 0, "image,offset=4097": 4097} {
		dir := t.TempDir()
		saveWithQEMU(t, dir, uri)
		_, m := open(t, filepath.Join(dir, "image"))
		if m.Offset != offset || m.Format != "qemu" || !strings.HasPrefix(m.Config.MachineType, "pc-i440fx-") {
			t.Errorf("opened as %+v, %+v", m, m.Layout)
		}
		l := newLayout(t, offset, m.Config, workedBlocks)
		if m.Config.MachineType == "pc-i440fx-10.0" && !slices.Equal(m.Blocks, l.Blocks) {
			t.Errorf("blocks\n%+v, want\n%+v", m.Blocks, l.Blocks)
		}
		if empty, err := m.Empty(); empty || err != nil {
			t.Errorf("no pages are stored, %v", err)
		}
		text, err := m.Description()
		check(t, err)
		d, err := vmstate.ParseDescription(text)
		check(t, err)
		data, err := m.DeviceSections()
		check(t, err)
		described, err := vmstate.Sections(data, d)
		check(t, err)
		guessed, err := vmstate.Sections(data, nil)
		check(t, err)
		if len(described) < 10 || len(described) != len(d.Devices) || len(guessed) != len(described) {
			t.Errorf("%d sections by footers, %d by the description of %d devices", len(guessed), len(described), len(d.Devices))
		}
		for i, s := range described {
			if s.State == nil || guessed[i].End != s.End {
				t.Errorf("section %+v is not as described, or found at %+v", s.Head, guessed[i])
			}
		}
		if state, err := vmstate.RunState(data); err != nil || state != "prelaunch" {
			t.Errorf("run state %q, %v", state, err)
		}
	}
}

// rewrite writes the image in m anew through this package, up to the end of memory.
func rewrite(t *testing.T, from io.ReaderAt, m *Image, l *Layout, to *os.File) {
	t.Helper()
	check(t, l.WriteHeaders(to))
	for i, b := range l.Blocks {
		bitmap, err := m.Bitmap(i)
		check(t, err)
		for start, end := range bitmap.Runs(b.Pages()) {
			pages := make([]byte, (end-start)*PageSize)
			_, err := from.ReadAt(pages, m.Blocks[i].PagesOffset+start*PageSize)
			check(t, err)
			_, err = to.WriteAt(pages, b.PagesOffset+start*PageSize)
			check(t, err)
		}
		check(t, l.WriteBitmap(to, i, bitmap))
	}
	check(t, l.WriteMagic(to))
}

// TestRewriteQEMU lays out what QEMU wrote anew and compares every byte up to the end of memory.
func TestRewriteQEMU(t *testing.T) {
	dir := t.TempDir()
	saveWithQEMU(t, dir, "image")
	from, m := open(t, filepath.Join(dir, "image"))
	var blocks []Block
	for _, b := range m.Blocks {
		blocks = append(blocks, Block{Name: b.Name, Length: b.Length})
	}
	l := newLayout(t, 0, m.Config, blocks)
	l.SectionID = m.SectionID
	check(t, l.Arrange())
	to, err := os.Create(filepath.Join(dir, "again"))
	check(t, err)
	defer to.Close()
	rewrite(t, from, m, l, to)
	data, err := m.DeviceSections()
	check(t, err)
	text, err := m.Description()
	check(t, err)
	_, err = l.WriteTail(to, data, text)
	check(t, err)
	const endOfPart = 8 + vmstate.FooterSize
	want, got := make([]byte, m.RAMEnd+endOfPart), make([]byte, l.RAMEnd+endOfPart)
	_, err = from.ReadAt(want, 0)
	check(t, err)
	_, err = to.ReadAt(got, 0)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("written otherwise than by QEMU")
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("first at offset %d", i)
			}
		}
	}
}

// TestLoadInQEMU composes images around device state from xen-save-devices-state, and has QEMU load them: plain, at an
// offset, with a seal behind the stream, with a description.
func TestLoadInQEMU(t *testing.T) {
	dir := t.TempDir()
	saveWithQEMU(t, dir, "image")
	from, m := open(t, filepath.Join(dir, "image"))
	q := startQEMU(t, dir)
	q.do(`{"execute":"xen-save-devices-state","arguments":{"filename":"` + filepath.Join(dir, "devices") + `","live":true}}`)
	q.stop()
	file, err := os.ReadFile(filepath.Join(dir, "devices"))
	check(t, err)
	devices, err := vmstate.DeviceSections(file)
	check(t, err)
	check(t, vmstate.SetRunState(devices, "paused"))

	for _, c := range []struct {
		name        string
		offset      int64
		sealed      bool
		description []byte
	}{{"plain", 0, false, nil}, {"offset", 4097, false, nil}, {"sealed", 0, true, nil}, {"described", 0, true, smallDescription}} {
		t.Run(c.name, func(t *testing.T) {
			blocks := slices.Clone(m.Blocks)
			l := newLayout(t, c.offset, m.Config, blocks)
			path := filepath.Join(t.TempDir(), "composed")
			to, err := os.Create(path)
			check(t, err)
			defer to.Close()
			rewrite(t, from, m, l, to)
			end, err := l.WriteTail(to, devices, c.description)
			check(t, err)
			if c.sealed {
				sealFile(t, to, end)
			}
			q := startQEMU(t, dir, "-incoming", "defer")
			q.mappedRAM()
			uri := path
			if c.offset != 0 {
				uri += fmt.Sprintf(",offset=%d", c.offset)
			}
			q.do(`{"execute":"migrate-incoming","arguments":{"uri":"file:` + uri + `"}}`)
			q.migrated()
			if state := q.do(`{"execute":"query-status"}`); !bytes.Contains(state, []byte(`"paused"`)) {
				t.Errorf("loaded as %s", state)
			}
			q.stop()
			if c.description != nil && q.stderr.Len() > 0 {
				t.Errorf("QEMU complains: %s", &q.stderr)
			}
		})
	}
}

// sealFile appends a seal whose hash is right and whose sums are read from the file.
func sealFile(t *testing.T, f *os.File, end int64) {
	t.Helper()
	m, err := Open(f, end)
	check(t, err)
	bitmaps := make([]Bitmap, len(m.Blocks))
	for i := range m.Blocks {
		bitmaps[i], err = m.Bitmap(i)
		check(t, err)
	}
	text, err := m.Description()
	check(t, err)
	data, err := m.DeviceSections()
	check(t, err)
	hash, err := m.StreamHash()
	check(t, err)
	if composed, err := m.Layout.StreamHash(func(i int) (Bitmap, error) { return bitmaps[i], nil }, data, text); err != nil || composed != hash {
		t.Errorf("hash of what was written %v, %v, of what is in the file %v", composed, err, hash)
	}
	check(t, appendSeal(f, m, bitmaps, hash))
	info, err := f.Stat()
	check(t, err)
	again, err := Open(f, info.Size())
	check(t, err)
	check(t, again.VerifyStream())
}

// TestPlainQEMU refuses QEMU's file without mapped-ram.
func TestPlainQEMU(t *testing.T) {
	dir := t.TempDir()
	q := startQEMU(t, dir)
	q.do(`{"execute":"migrate","arguments":{"uri":"file:plain"}}`)
	q.migrated()
	q.stop()
	b, err := os.ReadFile(filepath.Join(dir, "plain"))
	check(t, err)
	if _, err := Open(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "without mapped-ram") {
		t.Errorf("opened with %v", err)
	}
}
