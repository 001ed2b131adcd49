// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/test/vm"
)

var update = flag.Bool("update", false, "write docs/conformance.md and docs/conformance-table.md anew")

// docs is the directory of the documents.
const docs = "../../docs/"

// program is the ramjet under test.
var program string

func TestMain(m *testing.M) {
	if socket := os.Getenv(proberSocket); socket != "" {
		probe(socket)
		return
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ramjet-conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = vm.BuildRamjet(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Some rows crash QEMU, which is no reason to keep its memory.
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	return m.Run()
}

// needQEMU returns the version of the QEMU here. Where there is none it skips, or fails where RAMJET_NEED_QEMU says that there is one: a
// run that has compared nothing is no success.
func needQEMU(t *testing.T) version {
	t.Helper()
	v, err := vm.Version()
	switch {
	case err != nil && os.Getenv("RAMJET_NEED_QEMU") != "":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	return version{v[0], v[1]}
}

// TestConformance plays all scenes to all servers, whatever version QEMU is of, and compares. Texts that differ from version to version
// are declared in the scenes.
func TestConformance(t *testing.T) {
	v := needQEMU(t)
	var rows []row
	for _, sc := range scenes() {
		t.Run(sc.name, func(t *testing.T) {
			if strings.Contains(sc.script, "\ndevice ") {
				needDevices(t)
			}
			r := row{scene: sc, version: v, steps: parse(sc.script), answers: map[string][]string{}}
			for _, kind := range []string{stock, own, front} {
				// A name of the test's has commas in it, which mean something to QEMU.
				dir, err := os.MkdirTemp(filepath.Dir(program), "")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(dir)
				p := &player{kind: kind, program: program, dir: dir}
				a, err := p.play(sc)
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				for i := range a {
					a[i] = undoChanges(v, a[i])
				}
				r.answers[kind] = a
			}
			for _, d := range r.undeclared() {
				t.Error(d)
			}
			rows = append(rows, r)
		})
	}
	if t.Failed() || len(rows) != len(scenes()) {
		return
	}
	if v != documented {
		t.Logf("the documents are of QEMU %d.%d, this is %d.%d: they are not compared", documented[0], documented[1], v[0], v[1])
		return
	}
	compareDocument(t, docs+tableFile, render(rows))
	compareDocument(t, docs+"conformance.md", pageFor(rows))
}

// compareDocument fails if a document does not have the bytes wanted, after it has written them if the test was asked to.
func compareDocument(t *testing.T, document string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(document, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Split(string(have), "\n")
	for i, line := range strings.Split(string(want), "\n") {
		if i >= len(old) || old[i] != line {
			t.Errorf("%s:%d is not what was found: %s\n`go test ./test/conformance -update` writes it anew", document, i+1, line)
			break
		}
	}
}

// TestTopics: the page for users names every row that has a difference.
func TestTopics(t *testing.T) {
	for _, fault := range topicFaults() {
		t.Error(fault)
	}
}
