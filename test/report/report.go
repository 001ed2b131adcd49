// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of what does not build
	Test        string // "": of the package
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// name is the test with its package's last words: e2e.TestSave.
func (e event) name() string { return strings.TrimPrefix(e.Package, modulePath+"/") + "." + e.Test }

const modulePath = "github.com/ramjet-vm/ramjet"

// report is what came of the tests so far.
type report struct {
	out            io.Writer
	log            io.Writer                   // gets the events as they come
	output         map[string]*strings.Builder // of the tests that run, by the name of the top one
	said           map[string]string           // the last line of each test
	passed, failed int                         // top tests
	took           []event                     // top tests
	skips          []skip
}

// skip is a test that was skipped, and the last line that it said.
type skip struct{ pkg, test, why string }

func newReport(out io.Writer) *report {
	return &report{out: out, log: io.Discard, output: map[string]*strings.Builder{}, said: map[string]string{}}
}

// read reads the events of one command to their end, and prints as tests end.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		fmt.Fprintf(r.log, "%s\n", lines.Bytes())
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(r.out, lines.Text()) // of a program that the tests started
			continue
		}
		r.add(e)
	}
	return lines.Err()
}

func (r *report) add(e event) {
	top, _, sub := strings.Cut(e.Test, "/")
	key := e.Package + "." + top
	switch e.Action {
	case "build-output":
		io.WriteString(r.out, e.Output)
	case "output":
		r.hold(key, e)
	case "skip":
		if e.Test != "" {
			r.skips = append(r.skips, skip{strings.TrimPrefix(e.Package, modulePath+"/"), e.Test, r.said[e.Package+"."+e.Test]})
		}
		if !sub {
			r.end(key, e)
		}
	case "pass", "fail":
		if !sub {
			r.end(key, e)
		}
	}
}

// hold keeps what a test prints until it has ended.
func (r *report) hold(key string, e event) {
	line := strings.TrimSpace(e.Output)
	if strings.HasPrefix(line, "=== ") {
		return
	}
	if r.output[key] == nil {
		r.output[key] = &strings.Builder{}
	}
	r.output[key].WriteString(e.Output)
	if strings.HasPrefix(line, "--- ") {
		return
	}
	if _, said, ok := strings.Cut(line, ".go:"); ok { // FILE.go:LINE: TEXT
		_, line, _ = strings.Cut(said, ": ")
	}
	r.said[e.Package+"."+e.Test] = line
}

// end prints what came of a test, or of a package, with all that it said if it failed.
func (r *report) end(key string, e event) {
	said := r.output[key]
	delete(r.output, key)
	if e.Test == "" {
		key := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "no tests"}[e.Action]
		fmt.Fprintf(r.out, "%s\t%s\t%.1f s\n", key, strings.TrimPrefix(e.Package, modulePath+"/"), e.Elapsed)
		if e.Action == "fail" {
			r.failed++
			if said != nil {
				io.WriteString(r.out, said.String())
			}
		}
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		fmt.Fprintf(r.out, "FAIL: %s\n", e.name())
		if said != nil {
			io.WriteString(r.out, said.String())
		}
	}
	r.took = append(r.took, e)
}

// slowest is how many of the tests that took longest are listed.
const slowest = 15

// summary prints what there is to say at the end, and returns how many skips were not expected.
func (r *report) summary(list []expectation, took time.Duration) (unexpected int) {
	slices.SortFunc(r.took, func(a, b event) int { return int(1000 * (b.Elapsed - a.Elapsed)) })
	fmt.Fprintln(r.out, "\nWhat took longest:")
	for _, e := range r.took[:min(slowest, len(r.took))] {
		fmt.Fprintf(r.out, "%7.1f s  %s\n", e.Elapsed, e.name())
	}
	if len(r.skips) > 0 {
		fmt.Fprintln(r.out, "\nSkipped, and so not tested:")
	}
	for _, s := range r.skips {
		mark := ""
		if !slices.ContainsFunc(list, func(x expectation) bool { return x.fits(s) }) {
			mark = "NOT EXPECTED: "
			unexpected++
		}
		fmt.Fprintf(r.out, "  %s%s.%s: %s\n", mark, s.pkg, s.test, s.why)
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped (%d of these not expected), in %s\n",
		r.passed, r.failed, len(r.skips), unexpected, took.Round(time.Second))
	return unexpected
}

// expectation is a skip that is no surprise.
type expectation struct{ pkg, test, why string } // test is a pattern of path.Match, why is in what the test says

//go:embed expected.txt
var expectedText string

// readExpected reads expected.txt: a line for each, package, test and reason, between bars; # begins a comment.
func readExpected() (list []expectation, err error) {
	for i, line := range strings.Split(expectedText, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 3 {
			return nil, fmt.Errorf("expected.txt:%d: want PACKAGE | TEST | REASON", i+1)
		}
		x := expectation{strings.TrimSpace(f[0]), strings.TrimSpace(f[1]), strings.TrimSpace(f[2])}
		if _, err := path.Match(x.test, ""); err != nil || x.why == "" {
			return nil, fmt.Errorf("expected.txt:%d: a wrong pattern, or no reason", i+1)
		}
		list = append(list, x)
	}
	return list, nil
}

// fits reports whether a skip is the expected one: this test, for this reason.
func (x expectation) fits(s skip) bool {
	ok, _ := path.Match(x.test, s.test)
	return ok && x.pkg == s.pkg && strings.Contains(s.why, x.why)
}
