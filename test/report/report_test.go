// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestWhatWasRunWhere holds the documents' sections to what the recorded runs say.
func TestWhatWasRunWhere(t *testing.T) {
	runs, err := readRuns("../..")
	if err != nil || len(runs) == 0 {
		t.Fatalf("no recorded runs: %v", err)
	}
	for _, d := range documents {
		b, err := os.ReadFile("../../" + d)
		if err != nil {
			t.Fatal(err)
		}
		_, has, after, err := cutSection(string(b))
		if err != nil {
			t.Errorf("%s: %v", d, err)
		}
		if want := section(runs); has != want && (after != "" || strings.TrimSpace(has) != strings.TrimSpace(want)) {
			t.Errorf("%s says\n%s\nand by %s it is\n%s\n(go run ./test/report -update writes that)", d, has, runsFile, want)
		}
	}
	for _, r := range runs {
		if r.Passed == 0 || r.QEMU == "" || r.Accelerator == "" || r.Kernel == "" {
			t.Errorf("what was run where? %+v", r)
		}
	}
}

// TestSkips holds the report to its job: a skip is listed with its reason, one that is not expected is marked and counted, and
// what failed is shown with what it said.
func TestSkips(t *testing.T) {
	const events = `{"Action":"run","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestA"}
{"Action":"output","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestA/one","Output":"    a_test.go:7: there is no gdb here\n"}
{"Action":"output","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestA/one","Output":"    --- SKIP: TestA/one (0.00s)\n"}
{"Action":"skip","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestA/one","Elapsed":0}
{"Action":"pass","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestA","Elapsed":1.5}
{"Action":"output","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestB","Output":"    b_test.go:9: no guest: there is no QEMU\n"}
{"Action":"skip","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestB","Elapsed":0}
{"Action":"output","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestC","Output":"    c_test.go:9: it is wrong\n"}
{"Action":"fail","Package":"github.com/ramjet-vm/ramjet/test/e2e","Test":"TestC","Elapsed":0.1}
{"Action":"fail","Package":"github.com/ramjet-vm/ramjet/test/e2e","Elapsed":2}
`
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	n := r.summary([]expectation{{"test/e2e", "TestA/*", "no gdb"}, {"test/e2e", "TestB", "another reason"}}, time.Second)
	if n != 1 || r.passed != 1 || r.failed != 2 {
		t.Errorf("%d skips not expected, %d passed, %d failed", n, r.passed, r.failed)
	}
	for _, want := range []string{
		"  test/e2e.TestA/one: there is no gdb here\n", "  NOT EXPECTED: test/e2e.TestB: no guest: there is no QEMU\n",
		"FAIL: test/e2e.TestC\n    c_test.go:9: it is wrong\n", "2 skipped (1 of these not expected)",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
}

// TestExpected reads the list of skips that are expected.
func TestExpected(t *testing.T) {
	if _, err := readExpected(); err != nil {
		t.Error(err)
	}
}
