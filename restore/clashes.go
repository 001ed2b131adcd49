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

// clashes finds what two clones would both want and only one can have, and with Overlay what even one would write to because no
// overlay can come over it.
func (c *clone) clashes() error {
	if c.N == 1 && !c.Overlay {
		return nil
	}
	a, err := c.wants(0)
	if err != nil {
		return err
	}
	b, err := c.wants(1)
	if err != nil {
		return err
	}
	first := map[string]bool{}
	for _, e := range a {
		first[e.What] = true
	}
	for _, e := range b {
		disk := e.Kind == cmdline.DiskKind || e.Kind == cmdline.RemoteDiskKind
		if !first[e.What] || c.N == 1 && !disk {
			continue
		}
		asking := strings.Join(cmdline.Args{e.Arg}.Words(), " ")
		if c.Overlay && disk {
			return fmt.Errorf("no overlay can come over %s: write {n} for a disk of each clone's own in %q%s", e.What, asking, c.setting(e))
		}
		return fmt.Errorf("all clones would want %s: write {n} for each clone's number in %q%s%s", e.What, asking, c.setting(e), wayOut(e))
	}
	return nil
}

// setting says where {n} is written for an option of the recorded command line.
func (c *clone) setting(e cmdline.Exclusive) string {
	if c.Command != nil || e.Arg.Name == "" {
		return ""
	}
	return fmt.Sprintf(", as in --set '%s'", numberedExample(e))
}

var portNumber = regexp.MustCompile(`^port (\d+)`)

// numberedExample is a setting (qemu.Args.Set) that gives each clone its own.
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

// wants is what clone i has and no other process may have.
func (c *clone) wants(i int) ([]cmdline.Exclusive, error) {
	r, err := openRestore(c.options(i))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	args := r.launch.FinalArgs()
	if c.Overlay {
		for _, d := range overlayable(args) {
			if args, err = args.WithOverlay(d, c.overlay(i, d)); err != nil {
				return nil, err
			}
		}
	}
	return slices.DeleteFunc(args.Exclusive(r.launch.Dir), qemu.OfDirectory), nil
}

func wayOut(e cmdline.Exclusive) string {
	switch {
	case e.Kind == cmdline.DiskKind && !e.Disk.Fixed:
		return ", or give them --overlay"
	case e.Arg.Name == "qmp":
		return ", or give --qmp-dir DIRECTORY"
	}
	return ""
}
