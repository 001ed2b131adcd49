// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"path/filepath"
	"slices"
	"strings"
)

// LeavesDirectory reports whether QEMU changes to / when it has started (-daemonize and -chroot, os_setup_post), so
// that the directory of its relative paths is not that of its process.
func (args Args) LeavesDirectory() bool {
	return slices.ContainsFunc(args, func(a Arg) bool {
		return a.Name == "daemonize" || a.Name == "chroot" || a.Name == "run-with" && ParseProperties(a.Value, "").Get("chroot") != ""
	})
}

// filesByValue are the options whose value is a file's name.
var filesByValue = []string{"kernel", "initrd", "dtb", "bios", "pidfile", "D", "mem-path", "readconfig", "L", "option-rom", "cdrom"}

// fileKeys are the properties that are a file's name, of whichever option.
var fileKeys = []string{"path", "file", "filename", "file.filename", "mem-path", "logfile", "romfile", "dir", "addr.path"}

// RelativePaths returns the relative names of files and sockets in args.
func (args Args) RelativePaths() []string {
	var list []string
	add := func(path string) {
		if path != "" && !filepath.IsAbs(path) && isFile(path) && !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	for _, d := range args.Disks() {
		add(d.Path)
	}
	for _, a := range args {
		switch {
		case slices.Contains(filesByValue, a.Name):
			add(a.Value)
		case slices.Contains([]string{"qmp", "qmp-pretty", "monitor", "serial", "parallel", "debugcon", "gdb"}, a.Name):
			kind, rest, _ := strings.Cut(strings.TrimPrefix(a.Value, "mon:"), ":")
			if kind == "unix" || kind == "file" || kind == "pipe" {
				add(ParseProperties(rest, "path").Get("path"))
			}
		case slices.Contains([]string{"chardev", "object", "drive", "blockdev", "device", "fw_cfg", "acpitable", "smbios", "netdev"}, a.Name):
			p := ParseProperties(a.Value, "")
			for _, key := range fileKeys {
				add(p.Get(key))
			}
		}
	}
	return list
}

// isFile reports whether a name is that of a file, and not an address that begins with one of QEMU's protocols
// (path_has_protocol).
func isFile(path string) bool {
	before, _, colon := strings.Cut(path, ":")
	return !colon || strings.Contains(before, "/")
}
