// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// ActiveDisk is a disk as the VM has it now.
type ActiveDisk struct {
	Device   string   // what it hangs on: the id of a -drive, or the device's id or QOM path
	Size     int64    // as the guest sees it, in bytes
	Writable bool     // the guest can write to it
	File     string   // the image that is written to, absolute in the VM's file system; empty: it is no file of the host
	Chain    []string // File and its backing files, those that are files
}

// AsShown is a path as QEMU says it in JSON: U+FFFD stands for what is not UTF-8, here one for any number of it in a
// row.
func AsShown(path string) string {
	var b strings.Builder
	wrong := false
	for _, r := range path {
		if r != utf8.RuneError || !wrong {
			b.WriteRune(r)
		}
		wrong = r == utf8.RuneError
	}
	return b.String()
}

// HostFile takes the name that QEMU has for an image (BlockDriverState.filename): a path, an address of a server, or
// json:{...} where a path would not say all. It returns the absolute path of a file, or "".
func HostFile(name, dir string) string {
	if text, ok := strings.CutPrefix(name, "json:"); ok {
		var tree map[string]any
		if json.Unmarshal([]byte(text), &tree) != nil {
			return ""
		}
		return fileInTree(tree, dir)
	}
	for _, p := range []string{"file:", "host_device:", "host_cdrom:"} {
		name = strings.TrimPrefix(name, p)
	}
	protocol, _, colon := strings.Cut(name, ":")
	if name == "" || colon && !strings.Contains(protocol, "/") {
		return ""
	}
	return Absolute(filepath.Clean(name), dir)
}

// fileInTree finds the file at the bottom of a node that is described as a tree.
func fileInTree(tree map[string]any, dir string) string {
	for range 64 {
		if below, ok := tree["file"].(map[string]any); ok {
			tree = below
			continue
		}
		if name, ok := tree["filename"].(string); ok {
			switch driver, _ := tree["driver"].(string); driver {
			case "file", "host_device", "host_cdrom":
				return Absolute(filepath.Clean(name), dir)
			}
		}
		return ""
	}
	return ""
}

// DiskDifferences compares what disks are active, and which files are open, with the command line.
func (args Args) DiskDifferences(dir string, active []ActiveDisk, open map[string]bool) (differs []string) {
	named := args.names(dir)
	forgets := map[string]bool{}
	for _, path := range args.ForgetfulDisks(dir) {
		forgets[AsShown(path)] = true
		differs = append(differs, fmt.Sprintf("what the guest wrote to %s (snapshot=on) is lost when its QEMU ends", path))
	}
	for _, d := range active {
		temporary := len(d.Chain) > 1 && forgets[AsShown(d.Chain[1])]
		if d.File != "" && named[AsShown(d.File)] == "" && !temporary {
			differs = append(differs, fmt.Sprintf("the disk %s is %s, which the command line does not name", d.Device, d.File))
		}
	}
	for _, d := range args.Disks() {
		if name := args[d.Arg].Name; name != "drive" && !slices.Contains(plainDisks, name) {
			continue // a -blockdev need not be in use
		}
		if path := HostFile(d.Path, dir); path != "" && !open[AsShown(path)] {
			differs = append(differs, fmt.Sprintf("the disk %s of the command line is not in use any more", path))
		}
	}
	return differs
}

// ForgetfulDisks are the files over which QEMU keeps what the guest writes for as long as it runs (-snapshot,
// snapshot=on).
func (args Args) ForgetfulDisks(dir string) (paths []string) {
	all := slices.ContainsFunc(args, func(a Arg) bool { return a.Name == "snapshot" })
	for _, d := range args.Disks() {
		a := args[d.Arg]
		forgets := all && slices.Contains(plainDisks, a.Name) && a.Name != "pflash"
		if a.Name == "drive" {
			p := ParseProperties(a.Value, "")
			fixed := isOn(p, "readonly") || isOn(p, "read-only") || p.Get("media") == "cdrom"
			forgets = !fixed && (isOn(p, "snapshot") || all && p.Get("snapshot") != "off")
		}
		if path := HostFile(d.Path, dir); forgets && path != "" && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// ExactPath is the path of a file as the command line has it, of one that QEMU has told: JSON cannot hold names that
// are not UTF-8.
func (args Args) ExactPath(path, dir string) string {
	if !strings.ContainsRune(path, utf8.RuneError) {
		return path
	}
	if exact := args.names(dir)[AsShown(path)]; exact != "" {
		return exact
	}
	return path
}

// names are all texts of the command line that may be files: values, properties, what is in JSON. They are absolute
// paths, by what QEMU shows of them.
func (args Args) names(dir string) map[string]string {
	names := map[string]string{}
	var add func(v any)
	add = func(v any) {
		switch v := v.(type) {
		case string:
			if text, ok := strings.CutPrefix(v, "json:"); ok {
				if tree, ok := parseObject(text); ok {
					add(tree)
				}
			}
			if f := HostFile(v, dir); f != "" {
				names[AsShown(f)] = f
			}
		case map[string]any:
			for _, e := range v {
				add(e)
			}
		case []any:
			for _, e := range v {
				add(e)
			}
		}
	}
	for _, a := range args {
		add(a.Value)
		p := ParseProperties(a.Value, "")
		if p.tree != nil {
			add(p.tree)
		}
		for _, value := range p.All() {
			add(value)
		}
	}
	return names
}
