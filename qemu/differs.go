// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDifferences bounds what Differences returns.
const maxDifferences = 100

// Differences says, half a sentence each, what of the VM is not as its command line says: disks that were replaced by snapshots, commits,
// mirrors or another medium, disks whose changes end with their QEMU, and devices that were plugged in or out. Whoever starts
// that command line again gets another VM.
func (vm *VM) Differences(ctx context.Context) ([]string, error) {
	args := ParseArgs(vm.CommandLine.Args)
	disks, err := ActiveDisks(ctx, vm.Monitor, vm.CommandLine.Dir)
	if err != nil {
		return nil, err
	}
	open, err := nodeFiles(ctx, vm.Monitor, vm.CommandLine.Dir)
	if err != nil {
		return nil, err
	}
	differs := args.diskDifferences(vm.CommandLine.Dir, disks, open)
	devices, err := vm.deviceDifferences(ctx, args)
	differs = append(differs, devices...)
	if n := len(differs) - maxDifferences; n > 0 {
		differs = append(differs[:maxDifferences:maxDifferences], fmt.Sprintf("and %d more", n))
	}
	return differs, err
}

// diskDifferences compares what disks are active, and which files are open, with the command line.
func (args Args) diskDifferences(dir string, active []ActiveDisk, open map[string]bool) (differs []string) {
	named := args.names(dir)
	forgets := map[string]bool{}
	for _, path := range args.ForgetfulDisks(dir) {
		forgets[asShown(path)] = true
		differs = append(differs, fmt.Sprintf("what the guest wrote to %s (snapshot=on) is lost when its QEMU ends", path))
	}
	for _, d := range active {
		temporary := len(d.Chain) > 1 && forgets[asShown(d.Chain[1])]
		if d.File != "" && named[asShown(d.File)] == "" && !temporary {
			differs = append(differs, fmt.Sprintf("the disk %s is %s, which the command line does not name", d.Device, d.File))
		}
	}
	for _, d := range args.Disks() {
		if name := args[d.Arg].Name; name != "drive" && !slices.Contains(plainDisks, name) {
			continue // a -blockdev need not be in use
		}
		if path := hostFile(d.Path, dir); path != "" && !open[asShown(path)] {
			differs = append(differs, fmt.Sprintf("the disk %s of the command line is not in use any more", path))
		}
	}
	return differs
}

// ForgetfulDisks are the files over which QEMU keeps what the guest writes for as long as it runs (-snapshot, snapshot=on).
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
		if path := hostFile(d.Path, dir); forgets && path != "" && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// ExactPath is the path of a file as the command line has it, of one that QEMU has told: JSON cannot hold names that are not UTF-8.
func (args Args) ExactPath(path, dir string) string {
	if !strings.ContainsRune(path, utf8.RuneError) {
		return path
	}
	if exact := args.names(dir)[asShown(path)]; exact != "" {
		return exact
	}
	return path
}

// names are all texts of the command line that may be files: values, properties, what is in JSON. They are absolute paths, by what
// QEMU shows of them.
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
			if f := hostFile(v, dir); f != "" {
				names[asShown(f)] = f
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

// deviceDifferences finds devices that were plugged in (DeviceState.hotplugged) and those of the command line that are gone.
func (vm *VM) deviceDifferences(ctx context.Context, args Args) (differs []string, err error) {
	here := map[string]bool{}
	anonymous := 0
	for _, path := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		var children []struct{ Name, Type string }
		if err := vm.Monitor.Execute(ctx, "qom-list", map[string]any{"path": path}, &children); err != nil {
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
			if err := vm.Monitor.Execute(ctx, "qom-get", get, &plugged); err == nil && plugged {
				differs = append(differs, fmt.Sprintf("the device %s (%s) was plugged in while the VM ran", name, kind))
			}
		}
	}
	unnamed := 0
	for _, a := range args {
		if a.Name != "device" {
			continue
		}
		p := ParseProperties(a.Value, "driver")
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
