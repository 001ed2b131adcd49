// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// LeavesDirectory tells whether QEMU changes to / when it has started, so that what its relative paths start from cannot be seen any more:
// -daemonize and -chroot do (os_setup_post).
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

// startDirectory finds what the relative paths of a command line start from, for a process that has left that directory: where the
// files that it has open are, or else where it says that it was started ($PWD), if what it names is there. "": it cannot be found.
func startDirectory(proc string, relative []string) string {
	open := openFiles(proc)
	for _, dir := range append(directoriesOf(open, relative), environmentValue(proc, "PWD")) {
		if filepath.IsAbs(dir) && allThere(proc, dir, relative) {
			return dir
		}
	}
	return ""
}

// openFiles are the paths of what a process has open.
func openFiles(proc string) (paths []string) {
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if path, err := os.Readlink(proc + "/fd/" + e.Name()); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// directoriesOf are the directories in which open files are one of the relative ones.
func directoriesOf(open, relative []string) (dirs []string) {
	for _, r := range relative {
		r = filepath.Clean(r)
		for _, path := range open {
			if dir, ok := strings.CutSuffix(path, "/"+r); ok && dir != "" && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// allThere tells whether every relative path leads to something in dir, as the process sees it.
func allThere(proc, dir string, relative []string) bool {
	return !slices.ContainsFunc(relative, func(r string) bool {
		_, err := os.Stat(fmt.Sprintf("%s/root%s", proc, filepath.Join(dir, r)))
		return err != nil
	})
}

// isFile tells a file's name from an address that begins with one of QEMU's protocols (path_has_protocol).
func isFile(path string) bool {
	before, _, colon := strings.Cut(path, ":")
	return !colon || strings.Contains(before, "/")
}
