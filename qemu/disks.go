// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Disk is a disk image that a command line names.
type Disk struct {
	Arg      int    // the option's index
	Path     string // as it is written there
	Format   string // empty: QEMU finds out
	Name     string // id, node-name or the option's name: what a person knows it by
	ReadOnly bool   // never written, or what is written is forgotten
}

// plainDisks are the options whose value is just an image's path.
var plainDisks = []string{"", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "mtdblock", "sd", "pflash"}

// Disks finds the disk images. Network disks and those made of descriptors are not among them.
func (args Args) Disks() (disks []Disk) {
	forgetful := slices.ContainsFunc(args, func(a Arg) bool { return a.Name == "snapshot" })
	for i, a := range args {
		switch {
		case slices.Contains(plainDisks, a.Name):
			disks = append(disks, Disk{Arg: i, Path: a.Value, Name: strings.TrimSpace("disk " + a.Name), ReadOnly: forgetful})
		case a.Name == "drive":
			p := ParseProperties(a.Value, "")
			d := Disk{
				Arg: i, Path: p.Get("file"), Format: p.Get("format"), Name: p.Get("id"),
				ReadOnly: forgetful && p.Get("snapshot") != "off" || isOn(p, "snapshot") || isOn(p, "readonly") || isOn(p, "read-only") || p.Get("media") == "cdrom",
			}
			if d.Name == "" {
				d.Name = fmt.Sprint("drive", i)
			}
			if local(d.Path) {
				disks = append(disks, d)
			}
		case a.Name == "blockdev":
			if d, ok := args.blockdevDisk(i); ok {
				disks = append(disks, d)
			}
		}
	}
	return disks
}

// local tells a file's path from nothing and from QEMU's protocols (path_has_protocol).
func local(path string) bool {
	before, _, colon := strings.Cut(path, ":")
	return path != "" && (!colon || strings.Contains(before, "/"))
}

// blockdev is a -blockdev option's value as nested objects.
type blockdev map[string]any

func parseBlockdev(value string) blockdev {
	b := blockdev{}
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		_ = json.Unmarshal([]byte(value), &b)
		return b
	}
	p := ParseProperties(value, "driver")
	for k, v := range p.All() {
		b.set(k, v)
	}
	return b
}

// set sets a dotted key.
func (b blockdev) set(key string, value any) {
	first, rest, nested := strings.Cut(key, ".")
	if !nested {
		b[key] = value
		return
	}
	child, ok := b[first].(map[string]any)
	if !ok {
		child = map[string]any{}
		b[first] = child
	}
	blockdev(child).set(rest, value)
}

// text returns a dotted key's value if it is plain.
func (b blockdev) text(key string) string {
	first, rest, nested := strings.Cut(key, ".")
	if nested {
		child, _ := b[first].(map[string]any)
		return blockdev(child).text(rest)
	}
	switch v := b[key].(type) {
	case string:
		return v
	case bool:
		if v {
			return "on"
		}
		return "off"
	}
	return ""
}

func (b blockdev) readOnly() bool {
	return b.text("read-only") == "on" || b.text("read-only") == "true"
}

// String is the option's value, as JSON, which says everything.
func (b blockdev) String() string {
	text, err := json.Marshal(b)
	if err != nil {
		return ""
	}
	return string(text)
}

// blockdevDisk looks at option i, a -blockdev: at the node that names a file, and at the one of the format over it.
func (args Args) blockdevDisk(i int) (d Disk, ok bool) {
	b := parseBlockdev(args[i].Value)
	d = Disk{Arg: i, Name: b.text("node-name"), ReadOnly: b.readOnly()}
	if path := b.text("file.filename"); path != "" {
		d.Path, d.Format = path, b.text("driver")
		return d, true
	}
	if d.Path = b.text("filename"); d.Path == "" {
		return d, false
	}
	d.Format = "raw"
	if over := args.formatOver(d.Name); over >= 0 {
		f := parseBlockdev(args[over].Value)
		d.Format = f.text("driver")
		d.ReadOnly = d.ReadOnly || f.readOnly()
	}
	return d, true
}

// formatOver is the index of the -blockdev whose file is the node with that name, or -1.
func (args Args) formatOver(node string) int {
	return slices.IndexFunc(args, func(a Arg) bool {
		return a.Name == "blockdev" && node != "" && parseBlockdev(a.Value).text("file") == node
	})
}

// WithOverlay has the disk's place taken by a qcow2 image over it.
func (args Args) WithOverlay(d Disk, path string) (Args, error) {
	out := slices.Clone(args)
	a := &out[d.Arg]
	switch a.Name {
	case "drive":
		p := ParseProperties(a.Value, "")
		p.Set("file", path)
		p.Set("format", "qcow2")
		a.Value = p.String("")
	case "blockdev":
		b := parseBlockdev(a.Value)
		if b.text("file.filename") != "" {
			return out, overlayNode(a, b, "file.filename", path, true)
		}
		over := out.formatOver(d.Name)
		if over < 0 {
			return nil, fmt.Errorf("-blockdev %s has no format node over it, in whose place an overlay could come: add one, or give each clone a disk of its own with {n}", a.Value)
		}
		if err := overlayNode(a, b, "filename", path, false); err != nil {
			return nil, err
		}
		return out, overlayNode(&out[over], parseBlockdev(out[over].Value), "", "", true)
	default:
		a.Value = path
	}
	return out, nil
}

// overlayNode changes one node; one with a format becomes qcow2.
func overlayNode(a *Arg, b blockdev, key, path string, format bool) error {
	if b["offset"] != nil || b["size"] != nil {
		return fmt.Errorf("-blockdev %s is a part of its file, over which no overlay can come: give each clone a disk of its own with {n}", a.Value)
	}
	if key != "" {
		b.set(key, path)
	}
	if format {
		b.set("driver", "qcow2")
	}
	a.Value = b.String()
	return nil
}
