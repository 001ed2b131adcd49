// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/ramjet-vm/ramjet/qmp"
)

// ActiveDisk is a disk as the VM has it now.
type ActiveDisk struct {
	Device   string   // what it hangs on: the id of a -drive, or the device's id or QOM path
	Size     int64    // as the guest sees it, in bytes
	Writable bool     // the guest can write to it
	File     string   // the image that is written to, absolute in the VM's file system; empty: it is no file of the host
	Chain    []string // File and its backing files, those that are files
}

// maxDisks bounds how many disks a monitor may tell us of.
const maxDisks = 4096

// imageInfo is QEMU's ImageInfo.
type imageInfo struct {
	Filename    string     `json:"filename"`
	VirtualSize int64      `json:"virtual-size"`
	Backing     *imageInfo `json:"backing-image"`
}

// ActiveDisks asks for the VM's disks with a medium in them. dir is the directory from which relative names start.
func ActiveDisks(ctx context.Context, m *qmp.Client, dir string) ([]ActiveDisk, error) {
	var answer []struct {
		Device   string
		QDev     string
		Inserted *struct {
			File     string
			ReadOnly bool `json:"ro"`
			Image    imageInfo
		}
	}
	if err := m.Execute(ctx, "query-block", nil, &answer); err != nil {
		return nil, fmt.Errorf("cannot ask for the disks: %w", err)
	}
	var disks []ActiveDisk
	for _, a := range answer {
		if a.Inserted == nil {
			continue
		}
		if len(disks) == maxDisks {
			return nil, fmt.Errorf("more than %d disks", maxDisks)
		}
		d := ActiveDisk{Device: a.Device, Size: a.Inserted.Image.VirtualSize, Writable: !a.Inserted.ReadOnly, File: hostFile(a.Inserted.File, dir)}
		if d.Device == "" {
			d.Device = strings.TrimSuffix(strings.TrimPrefix(a.QDev, "/machine/peripheral/"), "/virtio-backend")
		}
		for i := &a.Inserted.Image; i != nil && len(d.Chain) < maxDisks; i = i.Backing {
			if f := hostFile(i.Filename, dir); f != "" {
				d.Chain = append(d.Chain, f)
			}
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// nodeFiles are the files of all block nodes, those below others too.
func nodeFiles(ctx context.Context, m *qmp.Client, dir string) (map[string]bool, error) {
	var nodes []struct{ File string }
	if err := m.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return nil, fmt.Errorf("cannot ask for the block nodes: %w", err)
	}
	files := map[string]bool{}
	for _, n := range nodes {
		files[asShown(hostFile(n.File, dir))] = true
	}
	return files, nil
}

// asShown is a path as QEMU says it in JSON: U+FFFD stands for what is not UTF-8, here one for any number of it in a row.
func asShown(path string) string {
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

// SameFile says that two names of files are the same as far as QEMU tells them.
func SameFile(a, b string) bool { return asShown(a) == asShown(b) }

// hostFile takes the name that QEMU has for an image (BlockDriverState.filename): a path, an address of a server, or json:{...} where
// a path would not say all. It returns the absolute path of a file, or "".
func hostFile(name, dir string) string {
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
	return CommandLine{Dir: dir}.abs(filepath.Clean(name))
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
				return CommandLine{Dir: dir}.abs(filepath.Clean(name))
			}
		}
		return ""
	}
	return ""
}
