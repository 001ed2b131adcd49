// SPDX-License-Identifier: Apache-2.0

// Package house holds the source to README's list of rooms, "The source": which packages there are, and what each may import.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/ramjet-vm/ramjet"

// house is the list of rooms: directories from the top of the repository, in README's order. A room includes the directories
// below it, unless one of those is on the list itself.
type house []string

// pkg is a package of the repository as `go list` describes it. Paths are import paths.
type pkg struct {
	ImportPath string
	Imports    []string // of the package itself, not of its tests
}

// outside are directories that are no rooms of the program, and may import any room.
var outside = []string{"scripts", "test", "internal/testkit"}

// TestHouse checks the packages of the repository.
func TestHouse(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	h, err := parseHouse(string(readme))
	if err != nil {
		t.Fatal(err)
	}
	packages := listPackages(t)
	if len(packages) < 10 {
		t.Fatalf("go list names only %d packages", len(packages))
	}
	for _, fault := range h.faults(packages) {
		t.Error(fault)
	}
	for _, room := range h {
		if st, err := os.Stat("../../" + room); err != nil || !st.IsDir() {
			t.Errorf("README lists %s/, and there is no such directory", room)
		}
	}
}

// TestHouseFindsFaults holds the check itself: each kind of fault is found, and nothing that is allowed.
func TestHouseFindsFaults(t *testing.T) {
	h := house{"cmd/a", "internal/cli", "save", "save/part", "qmp", "test"}
	in := func(name string, imports ...string) pkg {
		p := pkg{ImportPath: modulePath + "/" + name}
		for _, i := range imports {
			p.Imports = append(p.Imports, modulePath+"/"+i)
		}
		return p
	}
	for _, c := range []struct {
		pkg  pkg
		want string // part of the only fault; "": none
	}{
		{in("cmd/a", "internal/cli", "qmp"), ""},
		{in("save", "save/part", "save/sub"), ""},
		{in("save/sub", "save"), ""},
		{in("test/e2e", "save", "test/vm"), ""},
		{in("scripts/gen", "internal/cli"), ""},
		{in("qmp", "save"), "qmp imports save, which README lists above it"},
		{in("save/part", "save"), "save/part imports save, which README lists above it"},
		{in("extra", "qmp"), "extra is in no room of README's list"},
		{in("internal/cli", "test/bench"), "internal/cli imports test/bench, which is not part of the product"},
		{in("save", "scripts/gen"), "save imports scripts/gen, which is not part of the product"},
	} {
		faults := h.faults([]pkg{c.pkg})
		if c.want == "" && len(faults) > 0 || c.want != "" && (len(faults) != 1 || faults[0] != c.want) {
			t.Errorf("%s imports %v: found %q, want %q", c.pkg.ImportPath, c.pkg.Imports, faults, c.want)
		}
	}
}

var (
	section  = regexp.MustCompile(`(?s)\n## The source\n(.*?)(?:\n## |\z)`)
	roomLine = regexp.MustCompile(`(?m)^ {4}([a-z0-9_/-]+)/ +\S`)
)

// parseHouse reads the list below README's heading "The source".
func parseHouse(readme string) (h house, err error) {
	text := section.FindStringSubmatch(readme)
	if text == nil {
		return nil, errors.New(`README has no section "The source"`)
	}
	for _, m := range roomLine.FindAllStringSubmatch(text[1], -1) {
		if slices.Contains(h, m[1]) {
			return nil, fmt.Errorf("README lists %s/ twice", m[1])
		}
		h = append(h, m[1])
	}
	if len(h) < 10 {
		return nil, fmt.Errorf(`README's section "The source" lists only %d rooms`, len(h))
	}
	return h, nil
}

// room is the place in the list of the room that holds a directory; -1 if none does.
func (h house) room(dir string) int {
	for ; dir != "."; dir = path.Dir(dir) {
		if i := slices.Index(h, dir); i >= 0 {
			return i
		}
	}
	return -1
}

// faults are the rules that packages break, a sentence for each. What a package's tests import is free: they use the harness
// in test/, and examples show packages together.
func (h house) faults(packages []pkg) (all []string) {
	for _, p := range packages {
		dir, own := local(p.ImportPath)
		if !own || isOutside(dir) {
			continue
		}
		from := h.room(dir)
		if from < 0 {
			all = append(all, dir+" is in no room of README's list")
			continue
		}
		for _, i := range p.Imports {
			to, own := local(i)
			switch {
			case !own:
			case isOutside(to):
				all = append(all, fmt.Sprintf("%s imports %s, which is not part of the product", dir, to))
			case h.room(to) >= 0 && h.room(to) < from:
				all = append(all, fmt.Sprintf("%s imports %s, which README lists above it", dir, to))
			}
		}
	}
	return all
}

// local is the directory of a package of this repository.
func local(importPath string) (dir string, own bool) {
	return strings.CutPrefix(importPath, modulePath+"/")
}

func isOutside(dir string) bool {
	return slices.ContainsFunc(outside, func(o string) bool { return dir == o || strings.HasPrefix(dir, o+"/") })
}

func listPackages(t *testing.T) (all []pkg) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", modulePath+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
