// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// maxDisks bounds how many disks a monitor may tell us of.
const maxDisks = 4096

// imageInfo is QEMU's ImageInfo.
type imageInfo struct {
	Filename    string     `json:"filename"`
	VirtualSize int64      `json:"virtual-size"`
	Backing     *imageInfo `json:"backing-image"`
}

// ActiveDisks asks for the VM's disks with a medium in them. dir is the directory from which relative names start.
func ActiveDisks(ctx context.Context, m *qmp.Client, dir string) ([]cmdline.ActiveDisk, error) {
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
	var disks []cmdline.ActiveDisk
	for _, a := range answer {
		if a.Inserted == nil {
			continue
		}
		if len(disks) == maxDisks {
			return nil, fmt.Errorf("more than %d disks", maxDisks)
		}
		d := cmdline.ActiveDisk{Device: a.Device, Size: a.Inserted.Image.VirtualSize, Writable: !a.Inserted.ReadOnly, File: cmdline.HostFile(a.Inserted.File, dir)}
		if d.Device == "" {
			d.Device = strings.TrimSuffix(strings.TrimPrefix(a.QDev, "/machine/peripheral/"), "/virtio-backend")
		}
		for i := &a.Inserted.Image; i != nil && len(d.Chain) < maxDisks; i = i.Backing {
			if f := cmdline.HostFile(i.Filename, dir); f != "" {
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
		files[cmdline.AsShown(cmdline.HostFile(n.File, dir))] = true
	}
	return files, nil
}

// SameFile says that two names of files are the same as far as QEMU tells them.
func SameFile(a, b string) bool { return cmdline.AsShown(a) == cmdline.AsShown(b) }
