// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A scene's script has a step a line:
//
//	COMMAND [JSON] [< NAME...]   execute it, with descriptors; the answer counts
//	raw TEXT                     send these bytes (Go's escapes), without a newline; the answer counts
//	repeat N TEXT                raw with the text that often
//	send TEXT [< NAME...]        send these bytes, nothing is answered
//	open NAME MODE FILE          a descriptor: MODE of r, w, rw with +direct, +append, +sync, +noatime
//	dup NAME OLD                 another descriptor of the same open file description
//	pipe NAME, memfd NAME SIZE   other descriptors
//	make FILE SIZE BYTE          a file of so many bytes of one kind
//	device NAME SIZE             a block device of so many bytes
//	fill SEED, check SEED        guest memory: make it so, is it so?
//	size FILE, head FILE N       how long a file is; what it begins with, and what is at N
//	cut FILE N                   cut a file to N bytes, from its end if negative
//	poke FILE N HEX              change bytes of a file
//	save JSON, load JSON         migrate, migrate-incoming, and what has become of it
//	until STATUS                 until query-migrate says so
//	wait                         until a migration has ended; how counts
//	events                       the events since the last time
//	order EVENT COMMAND [JSON]   execute it; its answer and all events up to EVENT in their order; EVENT~: all but the answer
//	flags NAME                   what has become of a descriptor's flags and position
//	leak                         descriptors that the server has more than when the scene began
//	fate                         what has become of the server's process
//	reconnect, renew             a new connection, with and without negotiation
//	restart [incoming]           a new server
//
// DIR in a text is the scene's directory. "differs KINDS: REASON" before a step says that these servers answer
// otherwise than QEMU, and why; "differs KINDS since 11.0: REASON" that they do so with QEMUs from that version on, and
// "before 11.0" with older ones. Several such lines may stand before a step. No step needs them once QEMU is gone.
// "only KINDS" before a step skips it for all other servers, and "want ANSWER" is Ramjet's answer whatever QEMU's is.

// step is one line of a script.
type step struct {
	text    string
	differs []difference
	only    map[string]bool
	want    string // what ramjet answers
}

// version is QEMU's, without the last number.
type version [2]int

func (v version) before(w version) bool { return v[0] < w[0] || v[0] == w[0] && v[1] < w[1] }

func parseVersion(s string) (v version) {
	if n, err := fmt.Sscanf(s, "%d.%d", &v[0], &v[1]); n != 2 || err != nil {
		panic("no version: " + s)
	}
	return v
}

// difference is a declared difference from QEMU.
type difference struct {
	kinds         map[string]bool
	since, before version // of the QEMUs; before is zero for all
	reason        string
}

// parseDifference takes KINDS [since VERSION] [before VERSION]: REASON.
func parseDifference(s string) (d difference) {
	who, reason, _ := strings.Cut(s, ": ")
	words := strings.Fields(who)
	d.kinds, d.reason = kindSet(words[0]), reason
	for i := 1; i+1 < len(words); i += 2 {
		switch words[i] {
		case "since":
			d.since = parseVersion(words[i+1])
		case "before":
			d.before = parseVersion(words[i+1])
		default:
			panic("no condition: " + s)
		}
	}
	return d
}

// declared returns why a kind of server answers a step otherwise than a QEMU of that version.
func (s step) declared(kind string, v version) (reason string, ok bool) {
	for _, d := range s.differs {
		if d.kinds[kind] && !v.before(d.since) && (d.before == version{} || v.before(d.before)) {
			return d.reason, true
		}
	}
	return "", false
}

func parse(script string) []step {
	var steps []step
	var next step
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "differs "):
			next.differs = append(next.differs, parseDifference(strings.TrimPrefix(line, "differs ")))
		case strings.HasPrefix(line, "want "):
			next.want = strings.TrimPrefix(line, "want ")
		case strings.HasPrefix(line, "only "):
			next.only = kindSet(strings.TrimPrefix(line, "only "))
		default:
			next.text = line
			steps = append(steps, next)
			next = step{}
		}
	}
	return steps
}

func kindSet(s string) map[string]bool {
	set := map[string]bool{}
	for _, k := range strings.Split(s, ",") {
		switch strings.TrimSpace(k) {
		case "own":
			set[own] = true
		case "vm":
			set[front] = true
		case "qemu":
			set[stock] = true
		default:
			panic("no kind of server: " + k)
		}
	}
	return set
}

// player plays one scene to one server.
type player struct {
	kind, program string
	dir           string
	server        *server
	client        *client
	normal        normal
	files         map[string]*os.File
	flags         map[string]string
	before        [2]int // descriptors
	gone          bool
	ends          bool // it was told to, or hung up
	paths         bool
	devices       []string // block devices that were made
}

const nothing = "" // a step without an answer

// play returns the answer of each step.
func (p *player) play(sc scene) (answers []string, err error) {
	p.files, p.flags, p.normal.dir = map[string]*os.File{}, map[string]string{}, p.dir
	p.paths = sc.paths
	defer p.close()
	if err := p.restart(sc.incoming); err != nil {
		return nil, err
	}
	for _, st := range parse(sc.script) {
		a, err := nothing, error(nil)
		if st.only == nil || st.only[p.kind] {
			a, err = p.step(st.text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", st.text, err)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

func (p *player) close() {
	if p.client != nil {
		p.client.conn.Close()
	}
	if p.server != nil {
		p.server.stop()
	}
	for _, f := range p.files {
		f.Close()
	}
	for _, d := range p.devices {
		exec.Command("losetup", "--detach", d).Run()
	}
}

func (p *player) restart(incoming bool) (err error) {
	if p.server != nil {
		p.client.conn.Close()
		p.server.stop()
	}
	p.gone, p.ends, p.normal.fds = false, false, nil
	for _, name := range []string{"monitor", "qemu"} {
		os.Remove(filepath.Join(p.dir, name))
	}
	if p.server, err = start(p.kind, p.program, p.dir, incoming, p.paths); err != nil {
		return err
	}
	if err := p.connect(); err != nil {
		return err
	}
	if err := p.settle(incoming); err != nil {
		return err
	}
	p.before = p.server.descriptors()
	return nil
}

// settle waits until a guest that is to run does: QEMU's monitor answers a little earlier.
func (p *player) settle(incoming bool) error {
	for range 200 {
		m, err := p.client.execute("query-status", "")
		if err != nil {
			return err
		}
		if r, _ := m["return"].(map[string]any); incoming || r["running"] == true {
			p.client.events = nil
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("the guest does not run")
}

func (p *player) connect() (err error) {
	if p.client, _, err = p.server.dial(); err != nil {
		return err
	}
	_, err = p.client.execute("qmp_capabilities", "")
	return err
}

// monitorGone is the answer of a server that has ended.
const monitorGone = "(the connection ends)"

// answered turns what a server said into an answer.
func (p *player) answered(m map[string]any, err error) (string, error) {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		p.gone, p.ends = true, true
		return monitorGone, nil
	}
	if p.kind == stock && errors.Is(err, os.ErrDeadlineExceeded) {
		return "(no answer)", nil
	}
	if err != nil {
		return "", err
	}
	answer := p.normal.answer(m)
	if strings.Contains(answer, "monitor connection closed") {
		// The last words of a monitor whose QEMU has ended.
		p.gone, p.ends = true, true
		return monitorGone, nil
	}
	return answer, nil
}

func (p *player) step(text string) (string, error) {
	word, rest, _ := strings.Cut(text, " ")
	rest = strings.ReplaceAll(rest, "DIR", p.dir)
	if do, ok := directives[word]; ok {
		return do(p, strings.Fields(rest), rest)
	}
	if p.gone {
		return monitorGone, nil
	}
	rest, files, err := p.passed(rest)
	if err != nil {
		return "", err
	}
	answer, err := p.answered(p.client.execute(word, rest, files...))
	p.ends = p.ends || word == "quit" && answer == "{}"
	return answer, err
}

// passed splits off the descriptors behind " < ".
func (p *player) passed(s string) (string, []*os.File, error) {
	text, names, _ := strings.Cut(" "+s, " < ")
	var files []*os.File
	for _, n := range strings.Fields(names) {
		f, ok := p.files[n]
		if !ok {
			return "", nil, fmt.Errorf("no descriptor %q", n)
		}
		files = append(files, f)
	}
	return strings.TrimSpace(text), files, nil
}

var openModes = map[string]int{
	"r": os.O_RDONLY, "w": os.O_WRONLY | os.O_CREATE, "rw": os.O_RDWR | os.O_CREATE,
	"direct": unix.O_DIRECT, "append": os.O_APPEND, "sync": os.O_SYNC, "noatime": unix.O_NOATIME,
}

func describe(f *os.File) string {
	fl, _ := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	pos, _ := unix.Seek(int(f.Fd()), 0, io.SeekCurrent)
	return fmt.Sprintf("flags %#o, position %d", fl, pos)
}

func (p *player) keep(name string, fd int, err error) error {
	if err != nil {
		return err
	}
	if old := p.files[name]; old != nil {
		old.Close()
	}
	p.files[name] = os.NewFile(uintptr(fd), name)
	p.flags[name] = describe(p.files[name])
	return nil
}

// wait polls until a migration has ended, and says how.
func (p *player) wait() (string, error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		m, err := p.client.execute("query-migrate", "")
		if err != nil || m["error"] != nil {
			return p.answered(m, err)
		}
		r, _ := m["return"].(map[string]any)
		switch status := fmt.Sprint(r["status"]); status {
		case "<nil>":
			return "no migration", nil
		case "completed", "failed", "cancelled":
			time.Sleep(60 * time.Millisecond) // QEMU sets the status before it sends the event, or crashes
			if m, err := p.client.execute("query-status", ""); err != nil {
				return p.answered(m, err)
			}
			if desc, ok := r["error-desc"]; ok && status == "failed" { // of a cancelled one QEMU tells what it was in the middle of
				status += ": " + p.normal.text(fmt.Sprint(desc))
			}
			return status, nil
		}
	}
	return "no end after " + patience.String(), nil
}

func (p *player) memoryIs(seed byte) (string, error) {
	f, err := p.server.guestMemory()
	if err != nil {
		return "", err
	}
	defer f.Close()
	got := make([]byte, memory)
	if _, err := f.ReadAt(got, 0); err != nil {
		return "", err
	}
	if bytes.Equal(got, pattern(seed)) {
		return "as it was", nil
	}
	return "different", nil
}

// pattern is guest memory with data, zeros and holes.
func pattern(seed byte) []byte {
	b := make([]byte, memory)
	for i := 1 << 20; i < 3<<20; i += 64 {
		b[i] = byte(i>>6)*3 + byte(i>>12) + seed
	}
	copy(b[memory-4096:], bytes.Repeat([]byte{seed}, 4096))
	return b
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		panic(err)
	}
	return n
}
