// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Disk is a disk image that a command line names.
type Disk struct {
	Arg      int    // the option's index
	Path     string // as it is written there; the address of a RemoteDisk
	Format   string // empty: QEMU finds out
	Name     string // id, node-name or the option's name: what a person knows it by
	ReadOnly bool   // never written, or what is written is forgotten
	Shared   bool   // a device says that others may write to it meanwhile (share-rw=on)
	Fixed    bool   // no overlay can come over it: it is deep within its option, or is no file
}

// plainDisks are the options whose value is just an image's path.
var plainDisks = []string{"", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "cdrom", "mtdblock", "sd", "pflash"}

// Disks finds the disk images that are files of this host, and the files of NVDIMMs, which are disks to a guest. It
// does not find disks of servers (nbd, rbd, iscsi and the like) and disks that are passed as descriptors.
func (args Args) Disks() (disks []Disk) {
	for _, d := range args.allDisks() {
		if !d.remote {
			disks = append(disks, d.Disk)
		}
	}
	return disks
}

// foundDisk is a disk in a file of this host or, if remote, of a server.
type foundDisk struct {
	Disk
	remote bool
}

func (args Args) allDisks() (disks []foundDisk) {
	forgetful := slices.ContainsFunc(args, func(a Arg) bool { return a.Name == "snapshot" })
	add := func(d Disk, storages []storage) {
		d.Shared = args.sharedNode(d.Name)
		for _, s := range storages {
			d.Path = s.path + s.address
			d.Fixed = s.address != "" || s.depth > 1
			disks = append(disks, foundDisk{d, s.address != ""})
		}
	}
	for i, a := range args {
		switch {
		case slices.Contains(plainDisks, a.Name):
			d := Disk{Arg: i, Name: strings.TrimSpace("disk " + a.Name), ReadOnly: forgetful || a.Name == "cdrom"}
			add(d, namedStorages(a.Value, 0))
		case a.Name == "drive":
			p := ParseProperties(a.Value, "")
			d := Disk{
				Arg: i, Format: p.Get("format"), Name: p.Get("id"),
				ReadOnly: forgetful && p.Get("snapshot") != "off" || isOn(p, "snapshot") || isOn(p, "readonly") || isOn(p, "read-only") || p.Get("media") == "cdrom",
			}
			if d.Format == "" {
				d.Format = p.Get("driver")
			}
			if d.Name == "" {
				d.Name = fmt.Sprint("drive", i)
			}
			add(d, driveStorages(p))
		case a.Name == "blockdev":
			add(args.blockdevDisk(i))
		case a.Name == "object":
			if d, ok := args.nvdimmDisk(i); ok {
				disks = append(disks, foundDisk{Disk: d})
			}
		}
	}
	return disks
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

// blockdevDisk looks at option i, a -blockdev: at the node that names a file, and at those of the formats over it.
func (args Args) blockdevDisk(i int) (Disk, []storage) {
	b := parseBlockdev(args[i].Value)
	d := Disk{Arg: i, Name: b.text("node-name"), Format: b.text("driver"), ReadOnly: args.onlyRead(b, 0)}
	storages := b.storages(0)
	if len(storages) > 0 && storages[0].depth == 0 {
		d.Format = "raw"
		if over := args.formatOver(d.Name); over >= 0 {
			d.Format = parseBlockdev(args[over].Value).text("driver")
		}
	}
	return d, storages
}

// onlyRead reports whether nothing is written to a node: it says so itself, or all nodes over it do or have it as a
// backing file. depth is the number of nodes below that were looked at.
func (args Args) onlyRead(b blockdev, depth int) bool {
	if b.readOnly() || depth > len(args) {
		return true
	}
	name, users, reading := b.text("node-name"), 0, 0
	for _, a := range args {
		if a.Name != "blockdev" || name == "" {
			continue
		}
		over := parseBlockdev(a.Value)
		how, uses := over.use(name)
		if !uses {
			continue
		}
		users++
		if how == "backing" || args.onlyRead(over, depth+1) {
			reading++
		}
	}
	return users > 0 && users == reading
}

// use is the key under which a node has the one of that name below itself.
func (b blockdev) use(name string) (key string, uses bool) {
	for key, v := range b {
		switch v := v.(type) {
		case string:
			if v == name && key != "node-name" && key != "driver" && key != "filename" {
				return key, true
			}
		case map[string]any:
			if inner, ok := blockdev(v).use(name); ok {
				if key == "backing" {
					inner = key
				}
				return inner, true
			}
		case []any:
			if slices.Contains(v, any(name)) {
				return key, true
			}
		}
	}
	return "", false
}

// sharedNode reports whether a device over a disk, or over a node that has it below itself, has share-rw=on.
func (args Args) sharedNode(name string) bool {
	names := []string{name}
	for i := 0; i < len(names) && len(names) <= len(args); i++ {
		for _, a := range args {
			if a.Name != "blockdev" {
				continue
			}
			over := parseBlockdev(a.Value)
			if how, uses := over.use(names[i]); uses && how != "backing" {
				names = append(names, over.text("node-name"))
			}
		}
	}
	return slices.ContainsFunc(args, func(a Arg) bool {
		if a.Name != "device" {
			return false
		}
		p := ParseProperties(a.Value, "driver")
		return isOn(p, "share-rw") && slices.Contains(names, p.Get("drive"))
	})
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
	if d.Fixed {
		return nil, fmt.Errorf("no overlay can come over the disk %s of -%s %s, which is written: give each clone a disk of its own with {n}",
			d.Name, a.Name, blankValue(a.Name, a.Value))
	}
	switch a.Name {
	case "drive":
		p := ParseProperties(a.Value, "")
		if p.Get("file") == "" {
			p.Delete("driver", "filename", "file.driver", "file.filename")
		}
		p.Set("file", path)
		p.Delete("driver")
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
