// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
	"github.com/ramjet-vm/ramjet/qmp"
)

// maxDifferences bounds what Differences returns.
const maxDifferences = 100

// Differences says, half a sentence each, what of the VM is not as its command line says: disks that were replaced by
// snapshots, commits, mirrors or another medium, disks whose changes end with their QEMU, and devices that were plugged
// in or out. Whoever starts that command line again gets another VM.
func (vm *VM) Differences(ctx context.Context) ([]string, error) {
	args := cmdline.ParseArgs(vm.CommandLine.Args)
	disks, err := ActiveDisks(ctx, vm.QMP, vm.CommandLine.Dir)
	if err != nil {
		return nil, err
	}
	open, err := nodeFiles(ctx, vm.QMP, vm.CommandLine.Dir)
	if err != nil {
		return nil, err
	}
	differs := args.DiskDifferences(vm.CommandLine.Dir, disks, open)
	devices, err := vm.deviceDifferences(ctx, args)
	differs = append(differs, devices...)
	if n := len(differs) - maxDifferences; n > 0 {
		differs = append(differs[:maxDifferences:maxDifferences], fmt.Sprintf("and %d more", n))
	}
	return differs, err
}

// deviceDifferences finds devices that were plugged in (DeviceState.hotplugged) and those of the command line that are
// gone.
func (vm *VM) deviceDifferences(ctx context.Context, args cmdline.Args) (differs []string, err error) {
	here := map[string]bool{}
	anonymous := 0
	for _, path := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		var children []struct{ Name, Type string }
		if err := vm.QMP.Execute(ctx, "qom-list", map[string]any{"path": path}, &children); err != nil {
			return nil, fmt.Errorf("cannot ask for the devices: %w", err)
		}
		for _, c := range children {
			kind, ok := strings.CutPrefix(c.Type, "child<")
			if !ok {
				continue
			}
			kind = strings.TrimSuffix(kind, ">")
			name := c.Name
			if path == "/machine/peripheral" {
				here[name] = true
			} else {
				anonymous++
				name = "without an id"
			}
			var plugged bool
			get := map[string]any{"path": path + "/" + c.Name, "property": "hotplugged"}
			if err := vm.QMP.Execute(ctx, "qom-get", get, &plugged); err == nil && plugged {
				differs = append(differs, fmt.Sprintf("the device %s (%s) was plugged in while the VM ran", name, kind))
			}
		}
	}
	unnamed := 0
	for _, a := range args {
		if a.Name != "device" {
			continue
		}
		p := cmdline.ParseProperties(a.Value, "driver")
		switch id := p.Get("id"); {
		case id == "":
			unnamed++
		case !here[id]:
			differs = append(differs, fmt.Sprintf("the device %s (%s) of the command line is not there any more", id, p.Get("driver")))
		}
	}
	// Other options make devices without an id too, so there may be more.
	if anonymous < unnamed {
		differs = append(differs, fmt.Sprintf("%d devices without an id of the command line are not there any more", unnamed-anonymous))
	}
	return differs, nil
}

// FileOf is where a file of the VM's file system is to be found from here: in the mount namespace of its process.
func (vm *VM) FileOf(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", vm.PID), path)
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
