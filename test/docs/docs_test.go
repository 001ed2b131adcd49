// SPDX-License-Identifier: Apache-2.0

// Package docs runs what the documentation shows: each command of README.md and docs/*.md, one file after the other from top to
// bottom, in a directory of its own with real QEMU. A command is a line that begins with "$ " in a ```console block; there
// are no other blocks of commands but those that notRun names with a reason, which TestBlocks sees to.
//
// What stands below a command is what it prints. It is compared with what it prints now, numbers apart; a line "..." stands for
// any lines; where a block shows nothing that is printed nothing is compared. "go test ./test/docs -update" writes down what is
// printed now. /run and /var/lib/vms mean directories of the test's.
//
// What has to be there before is in comments, which readers do not see, above a block:
//
//	<!-- $ COMMAND -->       runs first; prelude.sh has functions for it; if it ends with status 77 the block is skipped
//	<!-- needs PROGRAM... -->  the next block is skipped where one of them is missing
//	<!-- stays -->           the last command of the next block is one that does not end, and is left running
package docs

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

var update = flag.Bool("update", false, "write what commands print into the documents")

func TestDocs(t *testing.T) {
	vm.Need(t)
	bin := t.TempDir()
	if _, err := vm.BuildRamjet(bin); err != nil {
		t.Fatal(err)
	}
	for _, f := range documents(t) {
		d := parse(t, f)
		if len(d.blocks) > 0 {
			t.Run(filepath.Base(f), func(t *testing.T) { d.run(t, bin) })
		}
	}
}

func documents(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	return append(files, "../../README.md")
}

// document is a file's lines and the commands in them.
type document struct {
	path   string
	lines  []string
	blocks []block
	others []other
}

// block is commands that belong together.
type block struct {
	line     int // the one that opens it, from 0
	before   []string
	needs    []string
	stays    bool
	commands []command
}

// other is a block that is not run.
type other struct {
	line        int
	kind, first string // what follows the fence, the first line inside
}

// command is one that a block shows.
type command struct {
	text       string
	line       int // its first, from 0
	first, end int // the lines that it prints
}

var directive = regexp.MustCompile(`^<!-- (\$|needs|stays)(?: (.*))? -->$`)

func parse(t *testing.T, path string) *document {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &document{path: path, lines: strings.Split(string(b), "\n")}
	var next block
	for i := 0; i < len(d.lines); i++ {
		line := strings.TrimSpace(d.lines[i])
		if m := directive.FindStringSubmatch(line); m != nil {
			switch m[1] {
			case "$":
				next.before = append(next.before, m[2])
			case "needs":
				next.needs = strings.Fields(m[2])
			case "stays":
				next.stays = true
			}
			continue
		}
		kind, opens := strings.CutPrefix(line, "```")
		if !opens {
			continue
		}
		end := i + 1
		for end < len(d.lines) && strings.TrimSpace(d.lines[end]) != "```" {
			end++
		}
		first := strings.TrimSpace(d.lines[i+1])
		if kind != "console" || notRun[filepath.Base(path)+": "+first] != "" {
			d.others = append(d.others, other{i, kind, first})
		} else {
			next.line, next.commands = i, d.commands(t, i+1, end)
			d.blocks = append(d.blocks, next)
			next = block{}
		}
		i = end
	}
	if len(next.before)+len(next.needs) > 0 || next.stays {
		t.Errorf("%s: a comment with something to run at the end, with no block after it", path)
	}
	return d
}

// commands reads the lines of a block.
func (d *document) commands(t *testing.T, from, to int) (list []command) {
	t.Helper()
	for i := from; i < to; i++ {
		text, ok := strings.CutPrefix(strings.TrimLeft(d.lines[i], " "), "$ ")
		switch {
		case ok:
			c := command{text: text, line: i}
			for strings.HasSuffix(d.lines[i], `\`) {
				i++
				c.text += "\n" + d.lines[i]
			}
			c.first, c.end = i+1, i+1
			list = append(list, c)
		case len(list) == 0:
			t.Fatalf("%s:%d: a block begins with what is printed", d.path, i+1)
		default:
			list[len(list)-1].end = i + 1
		}
	}
	return list
}

// prints reports whether the block shows what is printed.
func (b *block) prints() bool {
	return slices.ContainsFunc(b.commands, func(c command) bool { return c.end > c.first })
}

// run runs the commands as somebody would who types them in one directory, one after the other.
func (d *document) run(t *testing.T, bin string) {
	dir := t.TempDir()
	cache, err := filepath.Abs("../../.cache")
	if err == nil {
		err = os.Symlink(cache, filepath.Join(dir, ".cache"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	prelude, err := filepath.Abs("prelude.sh")
	if err != nil {
		t.Fatal(err)
	}
	mark := "RAMJET_DOCS_TEST=" + dir
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "BASH_ENV="+prelude, mark)
	t.Cleanup(func() {
		if out, err := typed(dir, env, "cleanup"); err != nil {
			t.Errorf("cleanup: %v\n%s", err, out)
		}
		killMarked(mark)
	})
	for i := range d.blocks {
		ok := t.Run(fmt.Sprintf("line %d", d.blocks[i].line+1), func(t *testing.T) { d.runBlock(t, &d.blocks[i], dir, env) })
		if !ok {
			break // what follows builds on it
		}
	}
	if *update {
		if err := os.WriteFile(d.path, []byte(strings.Join(d.lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (d *document) runBlock(t *testing.T, b *block, dir string, env []string) {
	for _, program := range b.needs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed here", program)
		}
	}
	for _, text := range b.before {
		out, err := typed(dir, env, here(text, dir))
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == cannot {
			t.Skip(strings.TrimSpace(out))
		}
		if err != nil {
			t.Fatalf("%s, before line %d: $ %s\n%s%v", d.path, b.line+1, text, out, err)
		}
	}
	for i, c := range b.commands {
		text := here(c.text, dir)
		if b.stays && i == len(b.commands)-1 {
			text = "stay " + text
		}
		out, err := typed(dir, env, text)
		out = strings.ReplaceAll(strings.ReplaceAll(out, dir+"/run/", "/run/"), dir, shownDir)
		if err != nil {
			t.Fatalf("%s:%d: $ %s\n%s%v", d.path, c.line+1, c.text, out, err)
		}
		if !b.prints() {
			continue
		}
		c = b.commands[i] // it may have moved
		shown := strings.Join(d.lines[c.first:c.end], "\n")
		switch {
		case *update && !slices.Contains(d.lines[c.first:c.end], "..."):
			d.put(c, out)
		case !alike(shown, out):
			t.Errorf("%s:%d: $ %s\nprints\n%s\nand is said to print\n%s", d.path, c.line+1, c.text, out, shown)
		}
	}
}

// cannot is the status with which a command in a comment says that what it is for cannot be had on this machine.
const cannot = 77

// here makes the directories that a command names the test's own.
func here(text, dir string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, shownDir, dir), "/run/", dir+"/run/")
}

// shownDir stands in documents for the directory where their commands were run.
const shownDir = "/var/lib/vms"

// put replaces what a command is said to print.
func (d *document) put(c command, out string) {
	var lines []string
	if out != "" {
		lines = strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	}
	moved := len(lines) - (c.end - c.first)
	d.lines = slices.Replace(d.lines, c.first, c.end, lines...)
	for i := range d.blocks {
		for j := range d.blocks[i].commands {
			switch m := &d.blocks[i].commands[j]; {
			case m.line == c.line:
				m.end += moved
			case m.line > c.line:
				m.line += moved
				m.first += moved
				m.end += moved
			}
		}
	}
}

// patience bounds one command.
const patience = 2 * time.Minute

// typed runs a command in a shell and returns what it prints. It may leave processes behind, so that is a file, no pipe.
func typed(dir string, env []string, text string) (string, error) {
	f, err := os.CreateTemp("", "ramjet-docs-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	c := exec.Command("bash", "-c", text)
	c.Dir, c.Env, c.Stdout, c.Stderr = dir, env, f, f
	if err := c.Start(); err != nil {
		return "", err
	}
	late := time.AfterFunc(patience, func() { c.Process.Kill() })
	err = c.Wait()
	late.Stop()
	out, readErr := os.ReadFile(f.Name())
	return string(out), errors.Join(err, readErr)
}

// killMarked ends all processes that were started with mark in their environment.
func killMarked(mark string) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(b, []byte(mark+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(f, "/")[2]); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

var (
	// varying is what is another each time: ids, times, sizes, places in the file system.
	varying = regexp.MustCompile(`[0-9a-f]{64}|[0-9][0-9.,:]*(e[+-]?[0-9]+)?( ?(B|KiB|MiB|GiB|µs|ms|s|%))?\b%?`)
	blanks  = regexp.MustCompile(`[ \t]+`)
)

// alike compares what is shown with what was printed, numbers apart.
func alike(shown, printed string) bool {
	var pattern strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(shown), "\n") {
		if line == "..." {
			pattern.WriteString(`(.*\n)*?`)
			continue
		}
		fmt.Fprintf(&pattern, "%s\n", regexp.QuoteMeta(same(line)))
	}
	var text strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(printed), "\n") {
		fmt.Fprintf(&text, "%s\n", same(line))
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(text.String())
}

// same makes lines alike that differ in numbers only.
func same(line string) string {
	return strings.TrimSpace(blanks.ReplaceAllString(varying.ReplaceAllString(line, "N"), " "))
}

// notRun are the blocks of commands that TestDocs does not run, by document and first line, and what holds them instead.
var notRun = map[string]string{
	"README.md: $ git clone https://github.com/ramjet-vm/ramjet && cd ramjet": "from the network; scripts/try-clean runs it on a new Debian 12 and 13",
	"install.md: apt-get update": "installs packages; scripts/try-clean runs it on a new Debian 13",
	"install.md: echo \"deb http://deb.debian.org/debian bookworm-backports main\" >/etc/apt/sources.list.d/backports.list": "installs packages; scripts/try-clean runs it on a new Debian 12",
	"install.md: git clone https://github.com/ramjet-vm/ramjet && cd ramjet":                                                "from the network; scripts/try-clean clones, installs and makes the package on a new Debian 12 and 13",
	"operating.md: echo 'RAMJET_SERVE=--vm /run/vm1.qmp --metrics 127.0.0.1:9105' >/etc/ramjet/vm1.conf":                    "systemd has to be process 1; TestUnit (test/e2e) runs what the unit starts",
}

// TestBlocks sees to it that no command in the documents is skipped but for a reason: what is no block of commands that TestDocs
// runs is Go, XML, text that something printed, or in notRun, and no command hides in a block without a fence.
func TestBlocks(t *testing.T) {
	found := map[string]bool{}
	blocks, commands := 0, 0
	for _, f := range documents(t) {
		d := parse(t, f)
		for _, o := range d.others {
			key := filepath.Base(f) + ": " + o.first
			switch {
			case o.kind == "go" || o.kind == "xml" || o.kind == "text":
			case notRun[key] == "":
				t.Errorf("%s:%d: a block %q is not run: make it a console, or say in notRun why not", f, o.line+1, o.kind)
			case found[key]:
				t.Errorf("%s:%d: a second block %q", f, o.line+1, key)
			}
			found[key] = true
		}
		blocks += len(d.blocks)
		for _, b := range d.blocks {
			commands += len(b.commands)
		}
		fenced := false
		for i, line := range d.lines {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				fenced = !fenced
			}
			if !fenced && hidden.MatchString(line) {
				t.Errorf("%s:%d: a command in no block that is run: %s", f, i+1, line)
			}
		}
	}
	for key := range notRun {
		if !found[key] {
			t.Errorf("notRun has a block that is not there: %s", key)
		}
	}
	t.Logf("%d commands in %d blocks are run; %d blocks are not", commands, blocks, len(notRun))
}

// hidden is a command by its looks, indented as a block without a fence is.
var hidden = regexp.MustCompile(`^ {4}(\$ |ramjet |sudo |make |virsh |go )`)

func TestAlike(t *testing.T) {
	for _, c := range []struct {
		shown, printed string
		want           bool
	}{
		{"saved 10MiB in 3.1 s", "saved 2.5MiB in 12 s\n", true},
		{"saved 10MiB", "saved 10MiB, wrong", false},
		{"a\n...\nb", "a\nx\ny\nb\n", true},
		{"a\n...", "b\n", false},
		{"", "", true},
		{"", "something\n", false},
	} {
		if got := alike(c.shown, c.printed); got != c.want {
			t.Errorf("alike(%q, %q) = %v", c.shown, c.printed, got)
		}
	}
}
