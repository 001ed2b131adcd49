// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// runsFile records the last runs of each kind, from which the documents' sections are made.
const runsFile = "docs/runs.json"

// run of tests in which none failed.
type recorded struct {
	What    string `json:"what"` // make test
	Date    string `json:"date"` // 2026-11-27
	Commit  string `json:"commit"`
	vm.Host        // where
	Passed  int    `json:"passed"`
	Skipped int    `json:"skipped"`
	Seconds int    `json:"seconds"`
}

// same reports whether a newer run takes the place of an older one: the same, on the same kind of machine.
func (r recorded) same(o recorded) bool {
	return r.What == o.What && r.Host == o.Host
}

// recordRun writes a run down, in place of the last one of its kind on such a machine, and brings the documents up to date.
func recordRun(top, what string, r *report, took time.Duration) error {
	runs, err := readRuns(top)
	if err != nil {
		return err
	}
	commit, err := exec.Command("git", "-C", top, "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("git does not say what was tested: %w", err)
	}
	now := recorded{
		What: what, Date: time.Now().UTC().Format(time.DateOnly), Commit: strings.TrimSpace(string(commit)),
		Host: vm.ThisHost(os.TempDir()), Passed: r.passed, Skipped: len(r.skips), Seconds: int(took.Seconds()),
	}
	runs = append(slices.DeleteFunc(runs, now.same), now)
	b, err := json.MarshalIndent(runs, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(top, runsFile), append(b, '\n'), 0o644)
	}
	if err != nil {
		return err
	}
	return updateDocuments(top)
}

func readRuns(top string) (runs []recorded, err error) {
	b, err := os.ReadFile(filepath.Join(top, runsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &runs)
	}
	return runs, err
}

// documents have the section.
var documents = []string{"README.md", "docs/guarantees.md"}

const sectionTitle = "## What was run where\n"

// updateDocuments writes the sections anew.
func updateDocuments(top string) error {
	runs, err := readRuns(top)
	if err != nil {
		return err
	}
	for _, d := range documents {
		path := filepath.Join(top, d)
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		before, _, after, err := cutSection(string(b))
		if err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		if err := os.WriteFile(path, []byte(before+section(runs)+after), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cutSection takes a document apart: what is before the section, the section with its title, and what follows it.
func cutSection(text string) (before, section, after string, err error) {
	i := strings.Index(text, sectionTitle)
	if i < 0 {
		return "", "", "", fmt.Errorf("there is no section %q", strings.TrimSpace(sectionTitle))
	}
	end := strings.Index(text[i+len(sectionTitle):], "\n## ")
	if end < 0 {
		return text[:i], text[i:], "", nil
	}
	end += i + len(sectionTitle) + 1
	return text[:i], text[i:end], text[end:], nil
}

// section is what the recorded runs say.
func section(runs []recorded) string {
	var s strings.Builder
	s.WriteString(sectionTitle + "\n")
	s.WriteString("| run | QEMU | accelerator | Linux | file system | libvirt | processors | tests passed, skipped | minutes | of |\n")
	s.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	kvm := false
	for _, r := range runs {
		kvm = kvm || r.Accelerator == "kvm"
		fmt.Fprintf(&s, "| `%s` | %s | %s | %s | %s | %s | %d | %d, %d | %.0f | %s |\n", r.What, orNone(r.QEMU), r.Accelerator,
			orNone(r.Kernel), orNone(r.FileSystem), orNone(r.Libvirt), r.CPUs, r.Passed, r.Skipped, float64(r.Seconds)/60, r.Date)
	}
	s.WriteString("\n")
	if !kvm {
		s.WriteString("Nothing has been run under KVM yet: the machines at hand have none, or one under which no guest boots. `make test ACCEL=kvm`\n" +
			"runs all of it there (so do `make conformance` and `make bench`), `QEMU=PROGRAM` with another QEMU, and `RECORD=1` adds the run\n" +
			"to this table.\n")
	} else {
		s.WriteString("`make test ACCEL=kvm` runs all of it under KVM (so do `make conformance` and `make bench`), `QEMU=PROGRAM` with another\n" +
			"QEMU, and `RECORD=1` adds the run to this table.\n")
	}
	s.WriteString("Some tests make file systems of their own: ext4, XFS, tmpfs, FUSE. What a run skipped is listed at its end.\n\n")
	return s.String()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
