// SPDX-License-Identifier: Apache-2.0

package vmstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

// full appends a FULL section.
func full(b []byte, id uint32, name string, payload string) []byte {
	b = AppendSectionStart(b, TypeFull, id, name, 0, 1)
	return AppendFooter(append(b, payload...), id)
}

// global is the payload of the section globalstate.
func global(state string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(state)+1))
	b = append(b, state...)
	b = append(b, make([]byte, 36-len(b))...)
	b = append(b, 1, 1) // the VM had been suspended
	return string(append(b, make([]byte, 66)...))
}

func names(list []Section) string {
	var s []string
	for _, e := range list {
		s = append(s, e.Name)
	}
	return strings.Join(s, " ")
}

func TestParseHead(t *testing.T) {
	b := AppendSectionStart(nil, TypeStart, 2, "ram", 0, 4)
	if want := "\x01\x00\x00\x00\x02\x03ram\x00\x00\x00\x00\x00\x00\x00\x04"; string(b) != want {
		t.Fatalf("head %q, want %q", b, want)
	}
	h, n, err := ParseHead(append(b, "more"...))
	if want := (Head{TypeStart, 2, "ram", 0, 4}); err != nil || n != len(b) || h != want {
		t.Errorf("%+v, %d, %v", h, n, err)
	}
	for n := range b {
		if _, _, err := ParseHead(b[:n]); !errors.Is(err, ErrTruncated) {
			t.Errorf("%d bytes of a head give %v", n, err)
		}
	}
	for _, bad := range []string{"\x03\x00\x00\x00\x02\x03ram\x00\x00\x00\x00\x00\x00\x00\x04", "\x04\x00\x00\x00\x02\x03r\nm\x00\x00\x00\x00\x00\x00\x00\x04", "\x04\x00\x00\x00\x02\x00ram\x00\x00\x00\x00\x00\x00\x00\x04"} {
		if _, _, err := ParseHead([]byte(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q gives %v", bad, err)
		}
	}
	long := AppendSectionStart(nil, TypeFull, 1, strings.Repeat("x", 300), 0, 1)
	if h, _, err := ParseHead(long); err != nil || len(h.Name) != 255 {
		t.Errorf("a name of 300 bytes: %d, %v", len(h.Name), err)
	}
}

func TestSections(t *testing.T) {
	fakeFooter := string(AppendFooter(nil, 2))
	fakeSection := string(AppendSectionStart(AppendFooter(nil, 2), TypeFull, 77, "fake", 0, 1))
	for _, c := range []struct {
		name string
		data []byte
		want string // names, or empty for an error
	}{
		{"one", full(nil, 0, "timer", "abc"), "timer"},
		{"empty payload", full(full(nil, 1, "a", ""), 2, "b", ""), "a b"},
		{"a footer inside", full(full(nil, 2, "a", "x"+fakeFooter+"y"), 3, "b", ""), "a b"},
		{"a section without end inside", full(full(nil, 2, "a", "x"+fakeSection+"y"), 3, "b", "z"), "a b"},
		{"many of them", full(full(nil, 2, "a", strings.Repeat(fakeSection, 100)), 3, "b", "z"), "a b"},
		{"no footer", AppendSectionStart(nil, TypeFull, 0, "timer", 0, 2), ""},
		{"another's footer", AppendFooter(AppendSectionStart(nil, TypeFull, 0, "timer", 0, 2), 1), ""},
		{"a part", AppendFooter(AppendSectionStart(nil, TypeStart, 0, "timer", 0, 2), 0), ""},
		{"junk behind", append(full(nil, 0, "timer", "abc"), 9), ""},
		{"junk", []byte("junk"), ""},
		{"endless dead ends", full(nil, 2, "a", strings.Repeat(fakeSection, 1000))[:20000], ""},
	} {
		list, err := Sections(c.data, nil)
		if names(list) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v, want %q", c.name, names(list), err, c.want)
		}
		at := 0
		for _, s := range list {
			if s.Start != at || !bytes.Equal(c.data[s.PayloadEnd:s.End], AppendFooter(nil, s.ID)) {
				t.Errorf("%s: section %+v is not where it should be", c.name, s)
			}
			at = s.End
		}
	}
	if list, err := Sections(nil, nil); list != nil || err != nil {
		t.Errorf("no sections: %v, %v", list, err)
	}
}

func TestDeviceSections(t *testing.T) {
	sections := full(full(nil, 0, "timer", "abc"), 3, "globalstate", global("running"))
	m := Magic()
	file := AppendEnd(append(m[:], sections...), nil)
	got, err := DeviceSections(file)
	if err != nil || !bytes.Equal(got, sections) {
		t.Fatalf("%q, %v", got, err)
	}
	for n := range file {
		if _, err := DeviceSections(file[:n]); err == nil {
			t.Errorf("the first %d bytes of %d are taken for the whole", n, len(file))
		}
	}
	for name, c := range map[string]struct {
		file string
		want error
	}{
		"not a stream": {"ELF\x00\x00\x00\x00\x00\x00", ErrNotStream},
		"version":      {"QEVM\x00\x00\x00\x04\x00", ErrVersion},
		"nothing":      {"QEVM\x00\x00\x00\x03", ErrTruncated},
		"no sections":  {"QEVM\x00\x00\x00\x03\x00", ErrCorrupt},
		"a part":       {"QEVM\x00\x00\x00\x03\x01\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x01\x7e\x00\x00\x00\x00\x00", ErrCorrupt},
	} {
		if _, err := DeviceSections([]byte(c.file)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestStoreRunState: what a VM did is stored as it was where a loading QEMU goes on from there, and as paused where it would abort.
func TestStoreRunState(t *testing.T) {
	awake := full(nil, 3, "globalstate", global("running"))
	asleep := bytes.Clone(awake)
	at := bytes.Index(asleep, []byte("running")) + globalNameSize
	awake[at], awake[at+1] = 1, 0
	asleep[at], asleep[at+1] = 1, 1
	for _, c := range []struct {
		sections   []byte
		state      string
		want       string
		wantAsleep bool
	}{
		{awake, "running", "running", false}, {awake, "debug", "paused", false}, {awake, "save-vm", "paused", false},
		{awake, "finish-migrate", "paused", false}, {awake, "postmigrate", "paused", false}, {awake, "io-error", "io-error", false},
		{awake, "not yet invented", "paused", false}, {awake, "suspended", "suspended", true},
		{asleep, "suspended", "suspended", true}, {asleep, "paused", "paused", true}, {asleep, "prelaunch", "prelaunch", true},
		{asleep, "io-error", "paused", true}, {asleep, "guest-panicked", "paused", true}, {asleep, "debug", "paused", true},
	} {
		b := bytes.Clone(c.sections)
		if err := StoreRunState(b, c.state); err != nil {
			t.Fatal(err)
		}
		state, err := RunState(b)
		sleeps, serr := WasSuspended(b)
		if state != c.want || sleeps != c.wantAsleep || err != nil || serr != nil {
			t.Errorf("%s is stored as %s, asleep %v, %v, %v; want %s, %v", c.state, state, sleeps, err, serr, c.want, c.wantAsleep)
		}
		if err := CheckRunState(b); err != nil {
			t.Errorf("%s: %v", c.state, err)
		}
	}
	for _, state := range []string{"debug", "finish-migrate", "inmigrate", "restore-vm", "save-vm"} {
		b := bytes.Clone(awake)
		if err := SetRunState(b, state); err != nil || !errors.Is(CheckRunState(b), ErrRunState) {
			t.Errorf("%s: %v, %v", state, err, CheckRunState(b))
		}
	}
	if err := SetRunState(asleep, "io-error"); err != nil || !errors.Is(CheckRunState(asleep), ErrRunState) {
		t.Errorf("io-error, asleep: %v, %v", err, CheckRunState(asleep))
	}
}

func TestRunState(t *testing.T) {
	b := full(full(full(nil, 0, "timer", "abc"), 3, "globalstate", global("running")), 4, "after", "x")
	before := bytes.Clone(b)
	for _, state := range []string{"paused", "guest-panicked", "shutdown"} {
		if err := SetRunState(b, state); err != nil {
			t.Fatal(err)
		}
		if got, err := RunState(b); got != state || err != nil {
			t.Errorf("run state %q, %v, want %q", got, err, state)
		}
		want := full(full(full(nil, 0, "timer", "abc"), 3, "globalstate", global(state)), 4, "after", "x")
		if !bytes.Equal(b, want) {
			t.Errorf("sections are now\n%q, want\n%q", b, want)
		}
	}
	if err := SetRunState(b, "running"); err != nil || !bytes.Equal(b, before) {
		t.Errorf("setting it back: %v", err)
	}
	for _, bad := range []string{"", strings.Repeat("x", 32), "a\x00b"} {
		if err := SetRunState(b, bad); err == nil || !bytes.Equal(b, before) {
			t.Errorf("%q is taken for a run state", bad)
		}
	}
	for name, c := range map[string]struct {
		sections []byte
		want     error
	}{
		"none":        {full(nil, 0, "timer", "abc"), ErrNoGlobalState},
		"no sections": {nil, ErrNoGlobalState},
		"two":         {slices.Concat(before, full(nil, 9, "globalstate", global("paused"))), ErrCorrupt},
		"short":       {full(nil, 3, "globalstate", "abc"), ErrCorrupt},
		"no name":     {full(nil, 3, "globalstate", strings.Repeat("\x00", 104)), ErrCorrupt},
		"damaged":     {before[:20], ErrCorrupt},
	} {
		if _, err := RunState(c.sections); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err := SetRunState(bytes.Clone(c.sections), "paused"); name != "no name" && !errors.Is(err, c.want) {
			t.Errorf("setting it, %s: %v, want %v", name, err, c.want)
		}
	}
}
