// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// directives are the steps that are no commands, by their words; see script.go. They get the words behind it and the text.
var directives map[string]func(p *player, args []string, text string) (string, error)

func init() {
	directives = map[string]func(*player, []string, string) (string, error){
		"raw": (*player).raw, "repeat": (*player).repeat, "send": (*player).sendOnly,
		"open": (*player).open, "dup": (*player).dup, "pipe": (*player).pipe, "memfd": (*player).memfd,
		"make": (*player).makeFile, "device": (*player).device, "size": (*player).size, "head": (*player).head, "cut": (*player).cut, "poke": (*player).poke,
		"fill": (*player).fill, "check": (*player).check,
		"wait": func(p *player, _ []string, _ string) (string, error) {
			if p.gone {
				return monitorGone, nil
			}
			return p.wait()
		},
		"order": (*player).order, "events": (*player).takeEvents, "flags": (*player).flagsOf, "leak": (*player).leak,
		"fate":      (*player).fate,
		"reconnect": (*player).reconnect, "renew": (*player).renew, "until": (*player).until, "load": (*player).load, "save": (*player).save,
		"restart": func(p *player, args []string, _ string) (string, error) {
			return nothing, p.restart(len(args) > 0)
		},
	}
}

func unquote(s string) ([]byte, error) {
	t, err := strconv.Unquote("`" + s + "`")
	if strings.Contains(s, `\`) {
		t, err = strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
	}
	return []byte(t), err
}

func (p *player) raw(_ []string, text string) (string, error) {
	if p.gone {
		return monitorGone, nil
	}
	b, err := unquote(text)
	if err == nil {
		err = p.client.send(b)
	}
	if err != nil {
		return p.answered(nil, err)
	}
	return p.answered(p.client.answer())
}

// repeat is raw with a text many times.
func (p *player) repeat(args []string, _ string) (string, error) {
	return p.raw(nil, strings.Repeat(args[1], int(number(args[0]))))
}

func (p *player) sendOnly(_ []string, text string) (string, error) {
	text, files, err := p.passed(text)
	if err != nil {
		return nothing, err
	}
	if text == "" {
		text = " "
	}
	return nothing, p.client.send([]byte(text), files...)
}

func (p *player) open(args []string, _ string) (string, error) {
	flags := unix.O_CLOEXEC
	for m := range strings.SplitSeq(args[1], "+") {
		f, ok := openModes[m]
		if !ok {
			return "", fmt.Errorf("no mode %q", m)
		}
		flags |= f
	}
	path := args[2]
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.dir, path)
	}
	fd, err := unix.Open(path, flags, 0o600)
	return nothing, p.keep(args[0], fd, err)
}

func (p *player) dup(args []string, _ string) (string, error) {
	fd, err := unix.FcntlInt(p.files[args[1]].Fd(), unix.F_DUPFD_CLOEXEC, 3)
	return nothing, p.keep(args[0], fd, err)
}

func (p *player) pipe(args []string, _ string) (string, error) {
	var fds [2]int
	err := unix.Pipe2(fds[:], unix.O_CLOEXEC)
	if err == nil {
		err = p.keep(args[0]+".read", fds[0], nil)
	}
	return nothing, p.keep(args[0], fds[1], err)
}

func (p *player) memfd(args []string, _ string) (string, error) {
	fd, err := unix.MemfdCreate("conformance", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, number(args[1]))
	}
	return nothing, p.keep(args[0], fd, err)
}

func (p *player) path(name string) string { return filepath.Join(p.dir, name) }

func (p *player) makeFile(args []string, _ string) (string, error) {
	return nothing, os.WriteFile(p.path(args[0]), bytes.Repeat([]byte(args[2]), int(number(args[1]))), 0o600)
}

// device makes a block device of a file of so many bytes, none of which is zero.
func (p *player) device(args []string, _ string) (string, error) {
	file := p.path(args[0] + ".file")
	if err := os.WriteFile(file, bytes.Repeat([]byte{0xAA}, int(number(args[1]))), 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("losetup: %w, %s", err, out)
	}
	loop := strings.TrimSpace(string(out))
	p.devices = append(p.devices, loop)
	return nothing, os.Symlink(loop, p.path(args[0]))
}

// needDevices skips where a block device cannot be made, as without root's rights.
func needDevices(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("losetup", "--find").CombinedOutput(); err != nil || os.Geteuid() != 0 {
		t.Skipf("no block device can be made of a file: %v %s", err, out)
	}
}

func (p *player) size(args []string, _ string) (string, error) {
	st, err := os.Stat(p.path(args[0]))
	if err != nil {
		return "", err
	}
	return fmt.Sprint(st.Size()), nil
}

// head says what a file begins with, up to an offset, and whether a stream begins there.
func (p *player) head(args []string, _ string) (string, error) {
	b, err := os.ReadFile(p.path(args[0]))
	if err != nil {
		return "", err
	}
	n := int(number(args[1]))
	if len(b) < n+4 {
		return "too short", nil
	}
	begins := "nothing"
	if string(b[n:n+4]) == "QEVM" {
		begins = "a stream"
	}
	if n == 0 {
		return begins, nil
	}
	if len(bytes.Trim(b[:n], string(b[:1]))) > 0 {
		return "changed, then " + begins, nil
	}
	return fmt.Sprintf("%d times %q, then %s", n, b[:1], begins), nil
}

func (p *player) cut(args []string, _ string) (string, error) {
	st, err := os.Stat(p.path(args[0]))
	if err != nil {
		return "", err
	}
	n := number(args[1])
	if n < 0 {
		n += st.Size()
	}
	return nothing, os.Truncate(p.path(args[0]), n)
}

func (p *player) poke(args []string, _ string) (string, error) {
	b, err := hex.DecodeString(args[2])
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(p.path(args[0]), os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = f.WriteAt(b, number(args[1]))
	return nothing, err
}

func (p *player) fill(args []string, _ string) (string, error) {
	f, err := p.server.guestMemory()
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = f.WriteAt(pattern(byte(number(args[0]))), 0)
	return nothing, err
}

func (p *player) check(args []string, _ string) (string, error) {
	if p.gone {
		return monitorGone, nil
	}
	return p.memoryIs(byte(number(args[0])))
}

func (p *player) takeEvents([]string, string) (string, error) {
	if p.gone {
		return monitorGone, nil
	}
	// Whatever was said before the answer to this has been read then.
	if _, err := p.client.execute("query-status", ""); err != nil {
		return p.answered(nil, err)
	}
	s := strings.Join(p.client.events, " ")
	p.client.events = nil
	return s, nil
}

// order tells in which order an answer and the events around it came, up to the event of that name, or of that status of a
// migration. A tilde behind the name leaves the answer out, where QEMU itself has it now before and now behind an event.
func (p *player) order(args []string, text string) (string, error) {
	last, either := strings.CutSuffix(args[0], "~")
	_, text, _ = strings.Cut(text, " ")
	name, text, _ := strings.Cut(text, " ")
	if text != "" {
		text = `,"arguments":` + text
	}
	p.client.events = nil
	if err := p.client.send([]byte(fmt.Sprintf("{\"execute\":%q%s}\n", name, text))); err != nil {
		return "", err
	}
	var came []string
	for answered, found := false, false; !answered || !found; {
		s, err := p.client.line()
		if err != nil {
			return "", fmt.Errorf("after %q: %w", came, err)
		}
		var m struct {
			Event string
			Data  struct{ Status string }
			Error *struct{ Desc string }
		}
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			return "", err
		}
		switch {
		case m.Event == "MIGRATION_PASS": // from QEMU's other threads, at any time
		case m.Event != "":
			word := cmp.Or(m.Data.Status, m.Event)
			came, found = append(came, word), found || word == last
		case m.Error != nil:
			return "error: " + p.normal.text(m.Error.Desc), nil
		case either:
			answered = true
		default:
			came, answered = append(came, "ANSWER"), true
		}
	}
	return strings.Join(came, " "), nil
}

func (p *player) flagsOf(args []string, _ string) (string, error) {
	if now := describe(p.files[args[0]]); now != p.flags[args[0]] {
		return fmt.Sprintf("%s; were %s", now, p.flags[args[0]]), nil
	}
	return "unchanged", nil
}

// fate gives a server that is to end the time that it takes on a busy machine.
func (p *player) fate([]string, string) (string, error) {
	if p.ends {
		return p.server.fate(patience), nil
	}
	return p.server.fate(100 * time.Millisecond), nil
}

func (p *player) leak([]string, string) (string, error) {
	if p.gone {
		return monitorGone, nil
	}
	more := 0
	for range 50 { // a migration's last descriptors are closed behind its last word
		now := p.server.descriptors()
		more = 0
		for i, n := range now { // one process's fewer do not make up for another's more
			more += max(0, n-p.before[i])
		}
		if more == 0 {
			return "none", nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Sprintf("%d descriptors", more), nil
}

func (p *player) reconnect([]string, string) (string, error) {
	p.client.conn.Close()
	time.Sleep(50 * time.Millisecond)
	return nothing, p.connect()
}

// renew is reconnect without negotiation; the greeting counts.
func (p *player) renew([]string, string) (string, error) {
	p.client.conn.Close()
	time.Sleep(50 * time.Millisecond)
	c, greeting, err := p.server.dial()
	if err != nil {
		return "", err
	}
	p.client = c
	var m map[string]any
	if err := json.Unmarshal([]byte(greeting), &m); err != nil {
		return "", err
	}
	return compact(p.normal.value(m)), nil
}

func (p *player) until(args []string, _ string) (string, error) {
	for range 400 {
		m, err := p.client.execute("query-migrate", "")
		if err != nil {
			return p.answered(nil, err)
		}
		if r, _ := m["return"].(map[string]any); fmt.Sprint(r["status"]) == args[0] {
			return "yes", nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return "no", nil
}

// save is migrate with all that comes of it. A QEMU that crashes does so before its answer or after it.
func (p *player) save(_ []string, text string) (string, error) {
	s, err := p.answered(p.client.execute("migrate", text))
	if err != nil || s != "{}" {
		return s, err
	}
	return p.wait()
}

// load is migrate-incoming with all that comes of it.
func (p *player) load(_ []string, text string) (string, error) {
	s, err := p.answered(p.client.execute("migrate-incoming", text))
	if err != nil || s != "{}" {
		return s, err
	}
	old := p.client.patience
	p.client.patience = 3 * time.Second // QEMU may hang
	defer func() { p.client.patience = old }()
	s, err = p.wait()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.gone, p.ends = true, false
		return "(it hangs)", nil
	}
	return s, err
}
