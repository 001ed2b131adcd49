// SPDX-License-Identifier: Apache-2.0

// Package docs runs what the documentation shows: each command in a ```console block of docs/*.md, one file after the other
// from top to bottom, in a directory of its own with real QEMU.
//
// What stands below a command is what it prints. It is compared with what it prints now, numbers apart; a line "..." stands for
// any lines. "go test ./test/docs -update" writes down what is printed now.
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
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "ramjet"), "../../cmd/ramjet")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build ramjet: %v\n%s", err, out)
	}
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, f := range files {
		d := parse(t, f)
		if len(d.commands) > 0 {
			t.Run(filepath.Base(f), func(t *testing.T) { d.run(t, bin) })
		}
	}
}

// document is a file's lines and the commands in them.
type document struct {
	path     string
	lines    []string
	commands []command
}

// command is one that a block shows.
type command struct {
	text       string
	line       int // its first, from 0
	first, end int // the lines that it prints
}

func parse(t *testing.T, path string) *document {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &document{path: path, lines: strings.Split(string(b), "\n")}
	inside := false
	for i := 0; i < len(d.lines); i++ {
		line := d.lines[i]
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			c := command{text: line[2:], line: i}
			for strings.HasSuffix(d.lines[i], `\`) {
				i++
				c.text += "\n" + d.lines[i]
			}
			c.first, c.end = i+1, i+1
			d.commands = append(d.commands, c)
		case inside:
			if len(d.commands) == 0 {
				t.Fatalf("%s:%d: a block begins with what is printed", path, i+1)
			}
			d.commands[len(d.commands)-1].end = i + 1
		}
	}
	return d
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
	mark := "RAMJET_DOCS_TEST=" + dir
	t.Cleanup(func() { killMarked(mark) })
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), mark)
	for i := range d.commands {
		c := &d.commands[i]
		out, err := typed(dir, env, c.text)
		out = strings.ReplaceAll(out, dir, shownDir)
		if err != nil {
			t.Fatalf("%s:%d: $ %s\n%s%v", d.path, c.line+1, c.text, out, err)
		}
		shown := strings.Join(d.lines[c.first:c.end], "\n")
		switch {
		case *update && !slices.Contains(d.lines[c.first:c.end], "..."):
			d.put(i, out)
		case !alike(shown, out):
			t.Errorf("%s:%d: $ %s\nprints\n%s\nand is said to print\n%s", d.path, c.line+1, c.text, out, shown)
		}
	}
	if *update {
		if err := os.WriteFile(d.path, []byte(strings.Join(d.lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shownDir stands in documents for the directory where their commands were run.
const shownDir = "/var/lib/vms"

// put replaces what a command is said to print.
func (d *document) put(i int, out string) {
	c := d.commands[i]
	var lines []string
	if out != "" {
		lines = strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	}
	moved := len(lines) - (c.end - c.first)
	d.lines = slices.Replace(d.lines, c.first, c.end, lines...)
	d.commands[i].end += moved
	for j := i + 1; j < len(d.commands); j++ {
		d.commands[j].line += moved
		d.commands[j].first += moved
		d.commands[j].end += moved
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
