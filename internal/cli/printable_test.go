// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/ramjet-vm/ramjet/inspect"
	"github.com/ramjet-vm/ramjet/seal"
)

// evils are texts that a stranger may put into an image, or a guest into what QEMU says. (Issue 15, point 16.)
var evils = []string{
	"\x1b[2J\x1b]0;title\x07", "a\rb", "a\nid  0000", "a\tb\vc\fd", "\x9b31m", "\u009b31m", "x\u202egpj.exe", "\u2028", "\ufeff", "\x00", "\x7f", "\xff\xfe",
	"\U000e0041 tags", "\u200b",
}

func harmless(t *testing.T, what, s string) {
	t.Helper()
	if !utf8.ValidString(s) || strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }) >= 0 {
		t.Errorf("%s: %q", what, s)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, übergröße, 漢字, 🙂": "plain text, übergröße, 漢字, 🙂",
		"\x1b[2J":                      `\x1b[2J`,
		"a\nb\tc\r":                    `a\nb\tc\r`,
		"\xff":                         `\xff`,
		"\u202e":                       `\u202e`,
		"it's":                         "it's",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q becomes %q, not %q", in, got, want)
		}
	}
	for _, e := range evils {
		if harmless(t, e, printable(e)); strings.Contains(printable(e), "\n") {
			t.Errorf("%q has lines", e)
		}
	}
}

// TestPrintedResults puts such texts wherever they can come from into all that is printed for people, and into JSON.
func TestPrintedResults(t *testing.T) {
	for _, e := range evils {
		if !utf8.ValidString(e) {
			e = strings.ToValidUTF8(e, "\u009b") // JSON, which results go through, has no others
		}
		m := &seal.Metadata{CommandLine: []string{"-name", e}, Cwd: e, Executable: e, RamjetVersion: e, QEMUVersion: e}
		b := inspect.Block{Name: e}
		r := &inspect.Result{
			Format: e, Machine: e, QEMUVersion: e, ID: e, Sealed: true, RunState: e, Seal: m, Base: &seal.Base{Path: e}, Incomplete: errors.New(e),
			Blocks: []inspect.Block{b, {Name: e, Ignored: true}}, Devices: []inspect.Device{{Name: e, Fields: []inspect.DeviceField{{Path: e, Type: e, Value: e}}}},
		}
		a := &app{out: new(bytes.Buffer), err: new(bytes.Buffer), verbose: 1}
		clean := inspected("image", r)
		harmless(t, "inspect", clean)
		if n := strings.Count(inspected("image", r), "\n"); n != strings.Count(inspected("image", innocent(r)), "\n") {
			t.Errorf("%q makes lines of its own:\n%s", e, clean)
		}
		_ = a.print(r, e+"\n")
		a.json = true
		_ = a.print(map[string]string{"x": e}, "")
		a.log(e)
		a.status(errors.New(e))
		harmless(t, "output", strings.ReplaceAll(a.out.(*bytes.Buffer).String(), "\t", "")) // which our own tables have too
		harmless(t, "errors", a.err.(*bytes.Buffer).String())
		line := a.out.(*bytes.Buffer).String()
		line = line[strings.LastIndex(strings.TrimSpace(line), "\n")+1:]
		var back map[string]string
		if err := json.Unmarshal([]byte(line), &back); err != nil || back["x"] != e {
			t.Errorf("%q comes back as %q: %v", e, back["x"], err)
		}
	}
}

// innocent is r with plain texts.
func innocent(r *inspect.Result) *inspect.Result {
	c := *r
	c.Format, c.Machine, c.RunState = "f", "m", "s"
	c.Seal = &seal.Metadata{CommandLine: []string{"a"}}
	c.Base = &seal.Base{Path: "b"}
	c.Incomplete = errors.New("i")
	c.Blocks = []inspect.Block{{Name: "a"}, {Name: "b", Ignored: true}}
	c.Devices = []inspect.Device{{Name: "d", Fields: []inspect.DeviceField{{Path: "p"}}}}
	return &c
}

// TestShellQuote has a shell read the words again.
func TestShellQuote(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	words := []string{"", "plain", "a b", "it's", `"$(reboot)" `, "`x`", "~", "#a", "a=b", "!x", "*?[a]", "a\\b", "&|;<>(){}", "-drive", "{a,b}", "über", "-"}
	for _, e := range evils {
		if !strings.Contains(e, "\x00") {
			words = append(words, e)
		}
	}
	text := shellQuote(words)
	harmless(t, "quoted", text)
	out, err := exec.Command(bash, "-c", `printf '%s\0' `+text).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if strings.Join(got, "\x00") != strings.Join(words, "\x00") {
		t.Errorf("%q\n%s\n%q", words, text, got)
	}
	harmless(t, "NUL", shellQuote([]string{"a\x00b\x1b"}))
}
