// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu"
	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// findClashes refuses clones of which two would need the same thing, which only one can have; with Overlay also a clone that would write
// to a disk that no overlay can come over.
func findClashes(o CloneOptions) error {
	if o.N == 1 && !o.Overlay {
		return nil
	}
	a, err := needs(o, 0)
	if err != nil {
		return err
	}
	b, err := needs(o, 1)
	if err != nil {
		return err
	}
	first := map[string]bool{}
	for _, e := range a {
		first[e.What] = true
	}
	for _, e := range b {
		disk := e.Kind == cmdline.DiskKind || e.Kind == cmdline.RemoteDiskKind
		if !first[e.What] || o.N == 1 && !disk {
			continue
		}
		option := strings.Join(cmdline.Args{e.Arg}.Words(), " ")
		if o.Overlay && disk {
			return fmt.Errorf("no overlay can come over %s: write {n} for a disk of each clone's own in %q%s", e.What, option, settingHint(o, e))
		}
		return fmt.Errorf("all clones would want %s: write {n} for each clone's number in %q%s%s", e.What, option, settingHint(o, e), alternative(e))
	}
	return nil
}

// needs returns what clone i needs that no other process may have.
func needs(o CloneOptions, i int) ([]cmdline.Exclusive, error) {
	r, err := open(o.of(i))
	if err != nil {
		return nil, err
	}
	defer r.close()
	args := r.launch.FinalArgs()
	if o.Overlay {
		if args, err = withOverlays(args, overlayPaths(args, o.Socket, i)); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(args.Exclusive(r.launch.Dir), qemu.OfDirectory), nil
}

// settingHint is how --set puts {n} into an option of the recorded command line; "" if there is no such way.
func settingHint(o CloneOptions, e cmdline.Exclusive) string {
	if o.Command != nil || e.Arg.Name == "" {
		return ""
	}
	return fmt.Sprintf(", as in --set '%s'", numberedExample(e))
}

var portNumber = regexp.MustCompile(`^port (\d+)`)

// numberedExample is a setting (cmdline.Args.Set) that gives each clone its own.
func numberedExample(e cmdline.Exclusive) string {
	value := e.Arg.Value
	if m := portNumber.FindStringSubmatch(e.What); m != nil && strings.Contains(value, m[1]) {
		return e.Arg.Name + "=" + strings.Replace(value, m[1], m[1][:len(m[1])-1]+"{n}", 1)
	}
	if k := strings.LastIndexByte(e.What, '/'); k >= 0 {
		name, _, _ := strings.Cut(e.What[k+1:], ",")
		if name != "" && strings.Contains(value, name) {
			return e.Arg.Name + "=" + strings.Replace(value, name, "{n}-"+name, 1)
		}
	}
	return e.Arg.Name + "=VALUE"
}

// alternative is what can be done instead of {n}; "" if there is nothing.
func alternative(e cmdline.Exclusive) string {
	switch {
	case e.Kind == cmdline.DiskKind && !e.Disk.Fixed:
		return ", or give them --overlay"
	case e.Arg.Name == "qmp":
		return ", or give --qmp-dir DIRECTORY"
	}
	return ""
}
