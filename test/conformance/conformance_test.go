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

var update = flag.Bool("update", false, "write docs/conformance.md anew")

// document is the table in docs.
const document = "../../docs/conformance.md"

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

// needQEMU10 skips where there is no QEMU, or one whose texts differ from those of 10.
func needQEMU10(t *testing.T) {
	t.Helper()
	v, err := vm.Version()
	if err != nil {
		t.Skip(err)
	}
	if v[0] != 10 || v[1] != 0 {
		t.Skipf("the texts are those of QEMU 10.0, this is %d.%d", v[0], v[1])
	}
}

// TestConformance plays all scenes to all servers and compares.
func TestConformance(t *testing.T) {
	needQEMU10(t)
	var rows []row
	for _, sc := range scenes() {
		t.Run(sc.name, func(t *testing.T) {
			r := row{scene: sc, steps: parse(sc.script), answers: map[string][]string{}}
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
	want := render(rows)
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
