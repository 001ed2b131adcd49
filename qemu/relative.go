// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

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
